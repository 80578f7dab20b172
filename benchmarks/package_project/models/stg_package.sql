select
    package as package_id,
    description
from {{ source('raw', 'packages') }}
