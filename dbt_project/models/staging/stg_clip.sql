with source as (

    select * from {{ ref('raw_clips') }}

),

renamed as (

    select
        clip_id,
        trim(title) as title,
        url,
        broadcaster,
        nullif(creator, broadcaster) as creator,
        category,
        duration_s,
        is_removed,
        created_at
    from source

)

select * from renamed
