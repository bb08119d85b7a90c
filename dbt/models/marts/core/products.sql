with night as (

    select * from {{ ref('stg_shop__night') }}

),

sold as (

    select distinct lines.product_id
    from {{ ref('stg_shop__order_items') }} as lines
    inner join {{ ref('stg_shop__orders') }} as orders on orders.order_id = lines.order_id
    cross join night
    where orders.ordered_at < night.day_starts_at

),

products as (

    select
        products.*,
        shelves.category_top,
        shelves.category_leaf

    from {{ ref('stg_shop__products') }} as products
    inner join {{ ref('int_products__shelved') }} as shelves on shelves.product_id = products.product_id
    cross join night
    left join sold on sold.product_id = products.product_id
    where
        products.created_at is null
        or products.created_at < night.day_starts_at
        or sold.product_id is not null

),

-- Where a price stands among those of its shelf. Equal prices stand at the same place (the middle of theirs), so the
-- tier does not depend on an order among them.
placed as (

    select
        product_id,
        2 * (rank() over (partition by category_top order by price) - 1)
        + count(*) over (partition by category_top, price) as twice_the_place,
        2 * count(*) over (partition by category_top) as twice_the_shelf

    from products
    where price is not null

),

tiered as (

    select
        product_id,
        case
            when 3 * twice_the_place < twice_the_shelf then 'low'
            when 3 * twice_the_place > 2 * twice_the_shelf then 'high'
            else 'mid'
        end as price_tier

    from placed

)

select
    products.product_id,
    products.title,
    products.description,
    products.brand,
    products.category,
    products.category_top,
    products.category_leaf,
    products.price,
    cast(tiered.price_tier as varchar) as price_tier,
    products.attributes,
    products.stock,
    cast(products.status as varchar) as status,
    products.locale,
    products.status = 'active' and (products.stock is null or products.stock > 0) as is_available,
    products.created_at,
    products.updated_at

from products
left join tiered on tiered.product_id = products.product_id
