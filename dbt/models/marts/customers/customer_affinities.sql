{{ config(materialized='incremental', incremental_strategy='by_customer', post_hook='{{ remember_customers() }}') }}

with night as (

    select * from {{ ref('stg_shop__night') }}

),

touched as (

    {{ touched_customers() }}

),

allowed as (

    select customers.customer_id
    from {{ ref('customers') }} as customers
    inner join touched on touched.customer_id = customers.customer_id
    where not customers.is_bot and coalesce(customers.profiling, 'granted') <> 'refused'

),

shelves as (

    select * from {{ ref('int_products__shelved') }}

),

seen as (

    select
        order_items.customer_id,
        order_items.product_id,
        order_items.ordered_at as seen_at,
        1 as purchases,
        0 as views,
        0 as reviews,
        order_items.net_amount as revenue

    from {{ ref('order_items') }} as order_items
    inner join allowed on allowed.customer_id = order_items.customer_id
    where order_items.status <> 'cancelled' and order_items.net_quantity > 0

    union all

    select
        events.customer_id,
        events.product_id,
        events.occurred_at as seen_at,
        0 as purchases,
        1 as views,
        0 as reviews,
        cast(null as decimal(18, 4)) as revenue

    from {{ ref('stg_shop__events') }} as events
    inner join allowed on allowed.customer_id = events.customer_id
    cross join night
    where events.event_type = 'product_viewed' and events.occurred_at < night.day_starts_at

    union all

    select
        reviews.customer_id,
        reviews.product_id,
        reviews.reviewed_at as seen_at,
        0 as purchases,
        0 as views,
        1 as reviews,
        cast(null as decimal(18, 4)) as revenue

    from {{ ref('stg_shop__reviews') }} as reviews
    inner join allowed on allowed.customer_id = reviews.customer_id
    cross join night
    where reviews.reviewed_at < night.day_starts_at

),

by_product as (

    select
        customer_id,
        product_id,
        sum(purchases) as purchases,
        sum(views) as views,
        sum(reviews) as reviews,
        sum(revenue) as revenue,
        max(seen_at) as last_seen_at

    from seen
    group by customer_id, product_id

),

by_value as (

    select by_product.*, 'category' as dimension, shelves.category as value
    from by_product
    inner join shelves on shelves.product_id = by_product.product_id
    where shelves.category is not null

    union all

    select by_product.*, 'brand' as dimension, shelves.brand as value
    from by_product
    inner join shelves on shelves.product_id = by_product.product_id
    where shelves.brand is not null

),

ranked as (

    select
        by_value.*,
        row_number() over (
            partition by customer_id, dimension, value
            order by last_seen_at desc, product_id
        ) as recency

    from by_value

)

select
    customer_id,
    cast(dimension as varchar) as dimension,
    value,
    cast(sum(purchases) as bigint) as purchases,
    cast(sum(views) as bigint) as views,
    cast(sum(reviews) as bigint) as reviews,
    {{ money('sum(revenue)') }} as revenue,
    max(last_seen_at) as last_seen_at,
    {{ json_list('product_id', order_by='recency', where='recency <= 5') }} as evidence

from ranked
group by customer_id, dimension, value
