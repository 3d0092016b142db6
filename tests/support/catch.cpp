// Only the home of the precompiled catch.h that all test programs share.
#include "tests/support/catch.h"
