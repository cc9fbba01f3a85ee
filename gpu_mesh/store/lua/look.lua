-- claim.lua, which looks first for messages that strangers pushed, and mends an index that strangers made wrong.
-- Arguments and replies are those of claim.lua; {"look", …} asks for another round.
--@include _index
--@include _describe
--@include _mend
--@include _adopt
local LOOKS = true
--@include _claim
