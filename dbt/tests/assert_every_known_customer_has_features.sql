-- customer_features has exactly the customers of customers: the incremental build lost none and kept none too many.
select customers.customer_id as known, features.customer_id as featured
from {{ ref('customers') }} as customers
full outer join {{ ref('customer_features') }} as features on features.customer_id = customers.customer_id
where customers.customer_id is null or features.customer_id is null
