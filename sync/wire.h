// The plain values of core as control messages, and back.
//
// Invariants
// 1. from_wire(to_wire(x)) == x for every value of core.
// 2. What comes from the other side is taken as it is: nothing here trusts a length, and no name is checked
//    here.
//
// Threads: any; pure functions.
#pragma once

#include "core/description.h"
#include "core/error.h"
#include "core/pause.h"
#include "sync/protocol.pb.h"

namespace vsnap::wire {

// One higher with each change that an older program could misread.
inline constexpr std::uint32_t kProtocolVersion = 1;
// A request is names and numbers: the largest sensible one snapshots or removes 10,000 views of 130 bytes
// each.
inline constexpr int kMaxRequestBytes = 2 << 20;
// A reply lists at most some million views.
inline constexpr int kMaxMessageBytes = 512 << 20;

ViewName to_wire(const vsnap::ViewName& name);
ViewInfo to_wire(const vsnap::ViewInfo& info);
SpaceInfo to_wire(const vsnap::SpaceInfo& space);
PoolStatus to_wire(const vsnap::PoolStatus& status);
DiskUsage to_wire(const vsnap::DiskUsage& usage);
PropertyInfo to_wire(const vsnap::PropertyInfo& property);
RemovalPlan to_wire(const vsnap::RemovalPlan& plan);
RollbackResult to_wire(const vsnap::RollbackResult& result);
ReleaseResult to_wire(const vsnap::ReleaseResult& result);
CheckReport to_wire(const vsnap::CheckReport& report);
DiffRange to_wire(const vsnap::DiffRange& range);
Error to_wire(const vsnap::Error& error);
Pause to_wire(const vsnap::Pause& pause);

SnapshotLevel to_wire(vsnap::SnapshotLevel level);
LockEntry lock_of(const vsnap::ViewInfo& view, std::uint64_t handles); // by programs of this host

vsnap::ViewName from_wire(const ViewName& name);
vsnap::ViewInfo from_wire(const ViewInfo& info);
vsnap::SpaceInfo from_wire(const SpaceInfo& space);
vsnap::PoolStatus from_wire(const PoolStatus& status);
vsnap::DiskUsage from_wire(const DiskUsage& usage);
vsnap::PropertyInfo from_wire(const PropertyInfo& property);
vsnap::RemovalPlan from_wire(const RemovalPlan& plan);
vsnap::RollbackResult from_wire(const RollbackResult& result);
vsnap::ReleaseResult from_wire(const ReleaseResult& result);
vsnap::CheckReport from_wire(const CheckReport& report);
vsnap::DiffRange from_wire(const DiffRange& range);
vsnap::Error from_wire(const Error& error);
vsnap::Pause from_wire(const Pause& pause);
vsnap::SnapshotLevel from_wire(SnapshotLevel level);

ControlReply error_reply(const vsnap::Error& error);
ControlReply error_reply(vsnap::ErrorKind kind, std::string message);

} // namespace vsnap::wire
