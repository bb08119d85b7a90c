with source as (

    select * from {{ source('shop', 'night') }}

),

renamed as (

    select
        day,
        time_zone,
        currency,
        shop,
        batch,
        {{ shop_day_start('day') }} as day_starts_at

    from source

)

select * from renamed
