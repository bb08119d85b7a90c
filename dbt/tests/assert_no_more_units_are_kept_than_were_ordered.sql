select order_id, line, quantity, net_quantity
from {{ ref('order_items') }}
where quantity > 0 and (net_quantity > quantity or net_quantity < 0)
