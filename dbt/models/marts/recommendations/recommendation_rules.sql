select
    rule_id,
    cast(action as varchar) as action,
    cast(placement as varchar) as placement,
    product_id,
    brand,
    category,
    attribute,
    value,
    cast(per as varchar) as per,
    within_days,
    owner,
    reason,
    starts_on,
    ends_on,
    priority

from {{ ref('stg_shop__recommendation_rules') }}
