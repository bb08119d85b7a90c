with source as (

    select * from {{ source('shop', 'recommendation_rules') }}

),

renamed as (

    select
        -- ids
        rule_id,
        product_id,

        -- texts
        action,
        placement,
        {{ some_text('brand') }} as brand,
        {{ some_text("regexp_replace(category, '\\s*>\\s*', ' > ', 'g')") }} as category,
        {{ some_text('attribute') }} as attribute,
        per,
        {{ some_text('owner') }} as owner,
        {{ some_text('reason') }} as reason,

        -- numbers
        value,
        within_days,
        coalesce(priority, 0) as priority,

        -- days
        cast(starts_on as date) as starts_on,
        cast(ends_on as date) as ends_on,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
