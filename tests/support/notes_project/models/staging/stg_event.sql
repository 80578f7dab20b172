select note_id as event_id, title, shared, written_on from {{ ref('raw_notes') }}
