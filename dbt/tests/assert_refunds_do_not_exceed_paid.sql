-- What is given back for a line is at most what was paid for it, and what remains is not negative.
select order_id, line, gross_amount, discount_amount, refunded_amount, net_amount
from {{ ref('order_items') }}
where
    quantity > 0
    and unit_price >= 0
    and (
        refunded_amount > gross_amount - coalesce(discount_amount, 0) + 0.0001
        or net_amount < -0.0001
    )
