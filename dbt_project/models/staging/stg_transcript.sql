with source as (

    select * from {{ ref('raw_transcript_segments') }}

),

clips as (

    select * from {{ ref('stg_clip') }}

),

renamed as (

    select
        source.segment_id,
        source.clip_id,
        source.segment_no,
        source.start_s,
        source.end_s,
        source.text,
        source.language,
        clips.title as clip_title,
        clips.url as clip_url
    from source
    left join clips on source.clip_id = clips.clip_id
    where clips.is_removed is not true

)

select * from renamed
