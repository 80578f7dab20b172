with source as (

    select * from {{ ref('raw_articles') }}

),

renamed as (

    select
        article_id,
        title,
        body,
        topic,
        updated_at
    from source

)

select * from renamed
