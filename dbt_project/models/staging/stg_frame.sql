with source as (

    select * from {{ ref('raw_frames') }}

),

clips as (

    select * from {{ ref('stg_clip') }}

),

renamed as (

    select
        source.frame_id,
        source.clip_id,
        source.captured_at_s,
        source.caption,
        clips.title as clip_title,
        clips.url as clip_url
    from source
    left join clips on source.clip_id = clips.clip_id
    where clips.is_removed is not true

)

select * from renamed
