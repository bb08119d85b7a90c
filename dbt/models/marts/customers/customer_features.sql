{{ config(materialized='incremental', incremental_strategy='by_customer', post_hook='{{ remember_customers() }}') }}

with night as (

    select * from {{ ref('stg_shop__night') }}

),

touched as (

    {{ touched_customers() }}

),

customers as (

    select customers.*
    from {{ ref('customers') }} as customers
    inner join touched on touched.customer_id = customers.customer_id

),

lines as (

    select order_items.*
    from {{ ref('order_items') }} as order_items
    inner join touched on touched.customer_id = order_items.customer_id
    where order_items.status <> 'cancelled'

),

-- An order counts when something of it was kept; what was bought and came back whole still tells of returns.
orders as (

    select
        customer_id,
        order_id,
        min(ordered_at) as ordered_at,
        min(ordered_on) as ordered_on,
        sum(net_amount) as net_amount

    from lines
    group by customer_id, order_id
    having sum(net_quantity) > 0

),

habits as (

    select
        customer_id,
        min(ordered_at) as first_order_at,
        max(ordered_at) as last_order_at,
        count(*) as orders,
        max(ordered_on) - min(ordered_on) as days_between_first_and_last,
        count(net_amount) as priced_orders,
        sum(net_amount) as net_revenue

    from orders
    group by customer_id

),

baskets as (

    select
        customer_id,
        sum(net_quantity) as units,
        count(distinct case when net_quantity > 0 then product_id end) as distinct_products,
        -- A shop that writes discounts and refunds only where there are any leaves the other lines null: they are part
        -- of the whole. A customer of whom it wrote neither has no share, not 0.
        sum(gross_amount) as gross_amount,
        sum(discount_amount) as discount_amount,
        sum(quantity) as ordered_units,
        sum(refunded_quantity) as refunded_units

    from lines
    group by customer_id

),

moments as (

    select customer_id, ordered_at as happened_at from orders

    union all

    select events.customer_id, events.occurred_at as happened_at
    from {{ ref('stg_shop__events') }} as events
    inner join touched on touched.customer_id = events.customer_id
    cross join night
    where events.event_type = 'message_opened' and events.occurred_at < night.day_starts_at

),

hours as (

    select
        moments.customer_id,
        {{ shop_hour('moments.happened_at') }} as local_hour,
        count(*) as times

    from moments
    cross join night
    where {{ has_hour('moments.happened_at') }}
    group by 1, 2

),

preferred as (

    select
        customer_id,
        local_hour,
        row_number() over (partition by customer_id order by times desc, local_hour) as place

    from hours

)

select
    customers.customer_id,
    habits.first_order_at,
    habits.last_order_at,
    cast(coalesce(habits.orders, 0) as bigint) as orders,
    cast(case when habits.orders > 0 then baskets.units end as bigint) as units,
    cast(case when habits.orders > 0 then baskets.distinct_products end as bigint) as distinct_products,
    {{ money('habits.net_revenue') }} as net_revenue,
    {{ money('habits.net_revenue / nullif(habits.priced_orders, 0)') }} as average_order_value,
    case
        when habits.orders > 1
            then cast(habits.days_between_first_and_last as double precision) / (habits.orders - 1)
    end as average_days_between_orders,
    cast(baskets.discount_amount as double precision)
    / nullif(cast(baskets.gross_amount as double precision), 0) as discount_share,
    cast(baskets.refunded_units as double precision)
    / nullif(cast(baskets.ordered_units as double precision), 0) as return_rate,
    preferred.local_hour as preferred_send_hour,
    customers.is_bot,
    customers.profiling,
    customers.marketing,
    customers.locale,
    customers.country,
    customers.created_at

from customers
left join habits on habits.customer_id = customers.customer_id
left join baskets on baskets.customer_id = customers.customer_id
left join preferred on preferred.customer_id = customers.customer_id and preferred.place = 1
