{{ config(materialized='incremental', incremental_strategy='by_customer', post_hook='{{ remember_customers() }}') }}

with night as (

    select * from {{ ref('stg_shop__night') }}

),

touched as (

    {{ touched_customers() }}

),

orders as (

    select
        orders.*,
        {{ shop_date('orders.ordered_at') }} as ordered_on

    from {{ ref('stg_shop__orders') }} as orders
    inner join touched on touched.customer_id = orders.customer_id
    cross join night
    where orders.ordered_at < night.day_starts_at

),

lines as (

    select
        orders.order_id,
        lines.line,
        orders.customer_id,
        lines.product_id,
        orders.ordered_at,
        orders.ordered_on,
        orders.status,
        orders.channel,
        lines.quantity,
        lines.unit_price,
        orders.order_discount,
        {{ money('lines.quantity * lines.unit_price') }} as gross_amount,
        -- A discount cannot be larger than what it is taken off, nor can more come back than was bought. (`least`
        -- and `greatest` skip nulls, which must stay null here.)
        case
            when lines.line_discount is not null
                then {{ money('least(greatest(lines.line_discount, 0), lines.quantity * lines.unit_price)') }}
        end as line_discount,
        case
            when lines.refunded_quantity is not null then least(lines.refunded_quantity, lines.quantity)
        end as stated_refund,
        max(lines.refunded_quantity) over (partition by orders.order_id) as most_refunded

    from {{ ref('stg_shop__order_items') }} as lines
    inner join orders on orders.order_id = lines.order_id

),

refunded as (

    select
        lines.*,
        -- An order that was refunded, and no line says how much of it: all of it.
        case
            when status = 'refunded' and coalesce(most_refunded, 0) = 0 then quantity
            else stated_refund
        end as refunded_quantity,
        gross_amount - coalesce(line_discount, 0) as payable

    from lines

),

-- The order's discount is spread over its priced lines in proportion to what they cost. Shares are differences of a
-- running total, so that they add up to the discount to the last cent.
running as (

    select
        refunded.*,
        sum(payable) over (partition by order_id) as order_payable,
        coalesce(
            sum(payable) over (partition by order_id order by line rows between unbounded preceding and current row), 0
        ) as payable_so_far

    from refunded

),

spread as (

    select
        running.*,
        case
            when payable > 0 and order_discount > 0 then
                round(least(order_discount, order_payable) * payable_so_far / order_payable, 4)
                - round(least(order_discount, order_payable) * (payable_so_far - payable) / order_payable, 4)
        end as order_discount_share

    from running

),

discounted as (

    select
        spread.*,
        case
            when gross_amount is not null and coalesce(line_discount, order_discount) is not null
                then {{ money('coalesce(line_discount, 0) + coalesce(order_discount_share, 0)') }}
        end as discount_amount

    from spread

),

settled as (

    select
        discounted.*,
        gross_amount - coalesce(discount_amount, 0) as paid,
        case
            when status = 'cancelled' then 0
            else quantity - coalesce(refunded_quantity, 0)
        end as net_quantity

    from discounted

),

returned as (

    select
        settled.*,
        case
            when status = 'cancelled' then paid * 0
            when quantity > 0 then round(paid * refunded_quantity / quantity, 4)
        end as given_back

    from settled

)

select
    order_id,
    line,
    customer_id,
    product_id,
    ordered_at,
    ordered_on,
    cast(status as varchar) as status,
    cast(channel as varchar) as channel,
    quantity,
    cast(refunded_quantity as bigint) as refunded_quantity,
    cast(net_quantity as bigint) as net_quantity,
    cast(unit_price as decimal(18, 4)) as unit_price,
    gross_amount,
    cast(discount_amount as decimal(18, 4)) as discount_amount,
    {{ money('given_back') }} as refunded_amount,
    {{ money("case when status = 'cancelled' then paid * 0 else paid - coalesce(given_back, 0) end") }} as net_amount

from returned
