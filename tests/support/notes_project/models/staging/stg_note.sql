select note_id, title, category from {{ ref('raw_notes') }}
