{{ config(materialized='incremental', incremental_strategy='by_customer', post_hook='{{ remember_customers() }}') }}

with touched as (

    {{ touched_customers() }}

),

allowed as (

    select
        customers.customer_id,
        coalesce(customers.training, 'granted') <> 'refused' as may_train
    from {{ ref('customers') }} as customers
    inner join touched on touched.customer_id = customers.customer_id
    where
        not customers.is_bot
        and coalesce(customers.profiling, 'granted') <> 'refused'

),

kept as (

    select
        order_items.*,
        allowed.may_train
    from {{ ref('order_items') }} as order_items
    inner join allowed on allowed.customer_id = order_items.customer_id
    where order_items.status <> 'cancelled' and order_items.net_quantity > 0

)

select
    customer_id,
    product_id,
    order_id,
    min(ordered_at) as ordered_at,
    cast(sum(net_quantity) as bigint) as quantity,
    -- With one line's price missing, what the purchase brought is not known.
    {{ money('case when count(*) = count(net_amount) then sum(net_amount) end') }} as net_amount,
    may_train

from kept
group by customer_id, product_id, order_id, may_train
