select n.note_id, n.title, e.embedding
from {{ ref('stg_note') }} as n
inner join {{ source('embeddings', 'note_embeddings') }} as e on n.note_id = e.note_id
