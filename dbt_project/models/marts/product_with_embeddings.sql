with products as (

    select * from {{ ref('stg_product') }}

),

embeddings as (

    select * from {{ source('embeddings', 'product_embeddings') }}

),

joined as (

    select
        products.product_id,
        embeddings.chunk,
        products.name,
        products.title,
        products.category,
        products.language,
        products.is_active,
        products.installed_size_kb,
        products.homepage,
        products.updated_at,
        embeddings.text as embedded_text,
        embeddings.embedding,
        embeddings.model as embedding_model,
        embeddings.updated_at as embedded_at
    from products
    inner join embeddings on products.product_id = embeddings.product_id

)

select * from joined
