// libfuse's low-level interface, at the one version that this folder is written for, what newer releases of
// it have besides, and the kernel's own structures for the replies that libfuse 3.14 cannot express.
#pragma once

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>
#include <linux/fuse.h>

// Whether the libfuse that this is built with is of that release or later. 3.14 has no third number.
#ifdef FUSE_HOTFIX_VERSION
#define VSNAP_LIBFUSE_SINCE(minor, hotfix) \
  (FUSE_VERSION * 100 + FUSE_HOTFIX_VERSION >= FUSE_MAKE_VERSION(3, minor) * 100 + (hotfix))
#else
#define VSNAP_LIBFUSE_SINCE(minor, hotfix) (FUSE_VERSION >= FUSE_MAKE_VERSION(3, minor) && (hotfix) == 0)
#endif

// 3.15 and 3.16 have the flag at another place than the later releases.
#define VSNAP_PARALLEL_WRITE_FLAG VSNAP_LIBFUSE_SINCE(17, 0)
// Earlier 3.18 use memory after they freed it where FUSE over io_uring cannot be started.
#define VSNAP_FUSE_OVER_IO_URING VSNAP_LIBFUSE_SINCE(18, 2)
