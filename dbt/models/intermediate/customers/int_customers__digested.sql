-- Everything that a customer's rows in the incremental marts are made from, as one digest: which raw rows, in which
-- version (`batch` grows when a row changes), on which shelves their products stand. A mart compares it with the one
-- it was last built from; see macros/touched_customers.sql.
with night as (

    select * from {{ ref('stg_shop__night') }}

),

orders as (

    select orders.*
    from {{ ref('stg_shop__orders') }} as orders
    cross join night
    where orders.ordered_at < night.day_starts_at

),

shelves as (

    select
        product_id,
        {{ row_number_of(['product_id', 'brand', 'category']) }} as shelf

    from {{ ref('int_products__shelved') }}

),

pieces as (

    select
        customer_id,
        {{ row_number_of(["'order'", 'order_id', 'batch']) }} as piece

    from orders

    union all

    select
        orders.customer_id,
        {{ row_number_of(["'line'", 'lines.order_id', 'lines.line', 'lines.batch', 'shelves.shelf']) }} as piece

    from {{ ref('stg_shop__order_items') }} as lines
    inner join orders on orders.order_id = lines.order_id
    left join shelves on shelves.product_id = lines.product_id

    union all

    select
        customers.customer_id,
        {{ row_number_of(["'customer'", 'customers.batch']) }} as piece

    from {{ ref('stg_shop__customers') }} as customers
    cross join night
    where customers.created_at is null or customers.created_at < night.day_starts_at

    union all

    select
        consents.customer_id,
        {{ row_number_of(["'consent'", 'consents.purpose', 'consents.effective_at', 'consents.batch']) }} as piece

    from {{ ref('stg_shop__consents') }} as consents
    cross join night
    where consents.effective_at < night.day_starts_at

    union all

    select
        events.customer_id,
        {{ row_number_of(["'event'", 'events.event_id', 'events.batch', 'shelves.shelf']) }} as piece

    from {{ ref('stg_shop__events') }} as events
    cross join night
    left join shelves on shelves.product_id = events.product_id
    where
        events.occurred_at < night.day_starts_at
        and events.event_type in ('product_viewed', 'message_opened')

    union all

    select
        reviews.customer_id,
        {{ row_number_of(["'review'", 'reviews.review_id', 'reviews.batch', 'shelves.shelf']) }} as piece

    from {{ ref('stg_shop__reviews') }} as reviews
    cross join night
    left join shelves on shelves.product_id = reviews.product_id
    where reviews.reviewed_at < night.day_starts_at

),

summed as (

    select
        customer_id,
        count(*) as pieces,
        sum(piece) as total

    from pieces
    where customer_id is not null
    group by customer_id

)

select
    summed.customer_id,
    summed.pieces,
    cast(summed.total as varchar) || ':' || night.time_zone as digest

from summed
cross join night
