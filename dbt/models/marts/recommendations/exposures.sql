with night as (

    select * from {{ ref('stg_shop__night') }}

),

shown as (

    select
        events.customer_id,
        events.product_id,
        coalesce({{ some_text(json_text('events.properties', 'placement')) }}, 'unknown') as placement,
        {{ shop_date('events.occurred_at') }} as shown_on,
        events.occurred_at

    from {{ ref('stg_shop__events') }} as events
    inner join {{ ref('customers') }} as customers on customers.customer_id = events.customer_id
    cross join night
    where
        events.event_type = 'recommendation_shown'
        and events.product_id is not null
        and events.occurred_at < night.day_starts_at
        and events.occurred_at >= {{ shop_day_start('(night.day - 28)', 'night.time_zone') }}
        and not customers.is_bot
        and coalesce(customers.profiling, 'granted') <> 'refused'

)

select
    customer_id,
    product_id,
    cast(placement as varchar) as placement,
    shown_on,
    count(*) as shown,
    max(occurred_at) as last_shown_at

from shown
group by customer_id, product_id, placement, shown_on
