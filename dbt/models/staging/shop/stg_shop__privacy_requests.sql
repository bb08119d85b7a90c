with source as (

    select * from {{ source('shop', 'privacy_requests') }}

),

renamed as (

    select
        -- ids
        request_id,
        customer_id,

        -- texts
        kind,

        -- times
        requested_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
