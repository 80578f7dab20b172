with source as (

    select * from {{ ref('raw_products') }}

),

renamed as (

    select
        product_id,
        name,
        title,
        -- the package index wraps its lines
        regexp_replace(description, '\s+', ' ', 'g') as description,
        section as category,
        language,
        version,
        installed_size_kb,
        size_bytes,
        n_depends as dependency_count,
        essential as is_essential,
        section <> 'oldlibs' as is_active,
        maintainer,
        homepage,
        released_on,
        created_at,
        updated_at
    from source

)

select * from renamed
