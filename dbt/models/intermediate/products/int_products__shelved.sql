with products as (

    select * from {{ ref('stg_shop__products') }}

)

select
    product_id,
    brand,
    category,
    {{ some_text("split_part(category, ' > ', 1)") }} as category_top,
    {{ some_text("split_part(category, ' > ', -1)") }} as category_leaf

from products
