with source as (

    select * from {{ source('embeddings', 'entity_coverage') }}

),

renamed as (

    select
        entity,
        rows,
        rows_with_vectors,
        coverage_percent,
        pending,
        quarantined,
        oldest_pending_seconds,
        vectors_last_24h
    from source

)

select * from renamed
