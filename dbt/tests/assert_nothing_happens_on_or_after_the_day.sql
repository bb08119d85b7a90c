-- The marts are as of the moment the night's day begins: no row may know of anything later.
select 'order_items' as mart, order_items.customer_id, order_items.ordered_at as happened_at
from {{ ref('order_items') }} as order_items
cross join {{ ref('stg_shop__night') }} as night
where order_items.ordered_at >= night.day_starts_at

union all

select 'customer_affinities' as mart, affinities.customer_id, affinities.last_seen_at as happened_at
from {{ ref('customer_affinities') }} as affinities
cross join {{ ref('stg_shop__night') }} as night
where affinities.last_seen_at >= night.day_starts_at

union all

select 'exposures' as mart, exposures.customer_id, exposures.last_shown_at as happened_at
from {{ ref('exposures') }} as exposures
cross join {{ ref('stg_shop__night') }} as night
where exposures.last_shown_at >= night.day_starts_at
