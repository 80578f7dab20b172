with source as (

    select * from {{ ref('raw_instructions') }}

),

renamed as (

    select
        instruction_id,
        source,
        suite,
        split,
        task_id,
        instruction,
        consent
    from source

)

select * from renamed
