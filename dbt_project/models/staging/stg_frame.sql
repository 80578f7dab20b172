with source as (

    select * from {{ ref('raw_frames') }}

),

removed_clips as (

    select clip_id from {{ ref('stg_clip') }}
    where is_removed

),

renamed as (

    select
        source.frame_id,
        source.clip_id,
        source.captured_at_s,
        source.caption
    from source
    left join removed_clips on source.clip_id = removed_clips.clip_id
    where removed_clips.clip_id is null

)

select * from renamed
