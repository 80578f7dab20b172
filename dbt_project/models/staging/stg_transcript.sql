with source as (

    select * from {{ ref('raw_transcript_segments') }}

),

removed_clips as (

    select clip_id from {{ ref('stg_clip') }}
    where is_removed

),

renamed as (

    select
        source.segment_id,
        source.clip_id,
        source.segment_no,
        source.start_s,
        source.end_s,
        source.text,
        source.language
    from source
    left join removed_clips on source.clip_id = removed_clips.clip_id
    where removed_clips.clip_id is null

)

select * from renamed
