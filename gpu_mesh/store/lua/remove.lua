-- Take a waiting message out of its list; the others keep their ages.
--
-- ARGV[1]  list        ARGV[2]  envelope
-- returns  1, or 0 when it is not there (any more)
--@include _index
--@include _describe
--@include _mend
--@include _remove

return remove(ARGV[1], ARGV[2])
