with orders as (

    select * from {{ ref('stg_shop__orders') }}

),

night as (

    select * from {{ ref('stg_shop__night') }}

),

-- Converting a time to the shop's zone is the dear part: only customers with enough orders in all are looked at.
busy as (

    select orders.customer_id
    from orders
    cross join night
    where orders.ordered_at < night.day_starts_at
    group by orders.customer_id
    having count(*) >= {{ var('bot_orders_a_day') }}

),

days as (

    select
        orders.customer_id,
        {{ shop_date('orders.ordered_at') }} as ordered_on,
        count(*) as orders

    from orders
    inner join busy on busy.customer_id = orders.customer_id
    cross join night
    where orders.ordered_at < night.day_starts_at
    group by 1, 2

)

select
    customer_id,
    max(orders) as most_orders_a_day

from days
group by customer_id
having max(orders) >= {{ var('bot_orders_a_day') }}
