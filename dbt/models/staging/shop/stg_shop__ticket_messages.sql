with source as (

    select * from {{ source('shop', 'ticket_messages') }}

),

renamed as (

    select
        -- ids
        message_id,
        ticket_id,

        -- texts
        author,
        body,

        -- times
        sent_at,

        -- bookkeeping
        _batch as batch

    from source

)

select * from renamed
