select purchases.customer_id, purchases.order_id
from {{ ref('purchases') }} as purchases
inner join {{ ref('customers') }} as customers on customers.customer_id = purchases.customer_id
where
    customers.is_bot
    or customers.profiling = 'refused'
    or purchases.may_train = (coalesce(customers.training, 'granted') = 'refused')
