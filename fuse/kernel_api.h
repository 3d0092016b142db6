// libfuse's low-level interface, at the one version that this folder is written for, and the kernel's own
// structures for the replies that libfuse 3.14 cannot express.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
