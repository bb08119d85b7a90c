-- No row, no day to build for; two rows would double everything.
select count(*) as nights from {{ ref('stg_shop__night') }} having count(*) <> 1
