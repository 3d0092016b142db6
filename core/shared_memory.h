// Named shared memory of the real environment (Boost.Interprocess): what core/env.h asks for.
// Threads: any.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/env.h"

namespace vsnap::shared_memory {

[[nodiscard]] Result<std::unique_ptr<SharedMemory>> make(const std::string& name, std::size_t bytes);
[[nodiscard]] Result<std::unique_ptr<SharedMemory>> open(const std::string& name); // to be read only
void remove(const std::string& name);
[[nodiscard]] std::vector<std::string> names(const std::string& prefix);

} // namespace vsnap::shared_memory
