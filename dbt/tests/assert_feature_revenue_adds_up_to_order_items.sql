-- Both are incremental, each by its own memory: their totals agree only when neither is stale.
with items as (

    select
        customer_id,
        sum(case when status <> 'cancelled' then net_amount end) as net_amount

    from {{ ref('order_items') }}
    group by customer_id

)

select features.customer_id, features.net_revenue, items.net_amount
from {{ ref('customer_features') }} as features
left join items on items.customer_id = features.customer_id
where features.orders > 0 and abs(coalesce(features.net_revenue, 0) - coalesce(items.net_amount, 0)) > 0.01
