//! Devices: what there is, one opened, memory registered with it.
#![allow(unsafe_code)]

use super::library::Library;
use crate::error::StartError;
use epicserver_transport::{BufferPool, Frame, ReceiveBlock};
use rdma_sys::{
    ibv_access_flags, ibv_async_event, ibv_context, ibv_device_attr, ibv_device_cap_flags, ibv_gid, ibv_mr,
    ibv_mtu, ibv_pd, ibv_port_attr, ibv_port_state,
};
use std::ffi::{CStr, c_int, c_uint};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// One device, its active ports and their addresses, as far as choosing needs them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceInfo {
    pub(crate) name: String,
    pub(crate) ports: Vec<PortInfo>,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PortInfo {
    /// Counted from 1.
    pub(crate) number: u8,
    pub(crate) is_active: bool,
    /// Ethernet; otherwise InfiniBand.
    pub(crate) is_ethernet: bool,
    /// InfiniBand: the address within the subnet.
    pub(crate) lid: u16,
    /// In the numbering of verbs, 1 for 256 bytes to 5 for 4096.
    pub(crate) mtu: u32,
    pub(crate) gids: Vec<GidEntry>,
}

/// One entry in the table of addresses of a port that is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GidEntry {
    pub(crate) index: u8,
    pub(crate) gid: [u8; 16],
    pub(crate) version: RoceVersion,
}

impl GidEntry {
    /// The IP address that this stands for; on InfiniBand a number of that shape.
    pub(crate) fn ip(&self) -> IpAddr {
        Ipv6Addr::from(self.gid).to_canonical()
    }
}

/// How packets of an address look on Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoceVersion {
    /// Frames that no router passes on; or not Ethernet at all.
    One,
    /// UDP packets.
    Two,
}

/// Looks at every device of the machine.
pub(crate) fn list_devices() -> Result<Vec<DeviceInfo>, StartError> {
    let library = Library::get()?;
    let mut infos = Vec::new();
    for_each_device(library, |name, device| {
        // A device that cannot be opened, for want of rights or because it goes away, is left out.
        if let Ok(context) = Context::open(library, device) {
            let attributes = context.attributes();
            let ports = (1..=attributes.phys_port_cnt).filter_map(|number| context.port(name, number));
            infos.push(DeviceInfo { name: name.to_owned(), ports: ports.collect() });
        }
    });
    Ok(infos)
}

fn for_each_device(library: &Library, mut visit: impl FnMut(&str, *mut rdma_sys::ibv_device)) {
    let mut count: c_int = 0;
    // SAFETY: the count lives through the call; the list is read within its bounds and freed once.
    unsafe {
        let list = (library.get_device_list)(&raw mut count);
        if list.is_null() {
            return;
        }
        for at in 0..count.max(0) as usize {
            let device = *list.add(at);
            let name = CStr::from_ptr((library.get_device_name)(device)).to_string_lossy();
            visit(&name, device);
        }
        (library.free_device_list)(list);
    }
}

/// An open device with the one protection domain of this transport.
pub(crate) struct Device {
    pub(crate) name: String,
    pub(super) domain: NonNull<ibv_pd>,
    pub(super) context: Context,
    /// Most completions that one queue holds.
    pub(crate) completions_max: usize,
    /// Most requests that one queue of a pair holds.
    pub(crate) requests_max: usize,
    /// Most reads that one queue pair has under way at a time, as the end that asks and as the other.
    pub(crate) reads_max: usize,
    /// It has windows of the second kind, which are open for one queue pair alone.
    pub(crate) has_windows: bool,
    /// What stands for it in the file system, and its number there: another one of that name may come in its place.
    entry: (PathBuf, Option<u64>),
    /// Buffers of queue pairs that could not be destroyed, since the device was taken away: the system lets go of them until the context
    /// is closed at the latest. After the context, so that they are given back then.
    orphans: Mutex<Vec<Orphans>>,
}

/// Buffers that a device may still use: frames that are sent, and blocks to receive into.
pub(super) type Orphans = (Vec<Frame>, Vec<ReceiveBlock>);

// SAFETY: verbs objects may be used from any thread, the library locks where it must; the pointers are never given out.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device of that name.
    pub(crate) fn open(name: &str) -> Result<Arc<Self>, StartError> {
        let library = Library::get()?;
        let mut opened = Err(io::Error::from(io::ErrorKind::NotFound));
        for_each_device(library, |found, device| {
            if found == name {
                opened = Context::open(library, device);
            }
        });
        let failed = |what| {
            let device = name.to_owned();
            move |source| StartError::Device { device, what, source }
        };
        let context = opened.map_err(failed("opening it"))?;
        // SAFETY: an open context.
        let domain = non_null(unsafe { (library.alloc_pd)(context.raw()) })
            .map_err(failed("making a protection domain"))?;
        let attributes = context.attributes();
        let at_least_one = |number: c_int| usize::try_from(number).unwrap_or(0).max(1);
        Ok(Arc::new(Self {
            name: name.to_owned(),
            domain,
            completions_max: at_least_one(attributes.max_cqe),
            requests_max: at_least_one(attributes.max_qp_wr),
            reads_max: at_least_one(attributes.max_qp_rd_atom.min(attributes.max_qp_init_rd_atom)),
            has_windows: attributes.device_cap_flags & WINDOWS != 0,
            entry: entry(&context),
            context,
            orphans: Mutex::default(),
        }))
    }

    /// A descriptor that is readable while there are [`AsyncEvent`]s.
    pub(crate) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the context keeps its descriptor open while it lives.
        unsafe { BorrowedFd::borrow_raw((*self.context.raw()).async_fd) }
    }

    /// What happened to the device since; the descriptor must not block.
    pub(crate) fn next_event(&self) -> Option<AsyncEvent> {
        let library = self.context.library;
        let mut event = MaybeUninit::<ibv_async_event>::zeroed();
        // SAFETY: an open context, and room for the event.
        if unsafe { (library.get_async_event)(self.context.raw(), event.as_mut_ptr()) } != 0 {
            return None;
        }
        // The number is read as a number: the binding has an enum there, and a kernel may know more kinds than it does.
        // SAFETY: the library has written the event, whose kind is an integer of 32 bits in C.
        let number = unsafe { (&raw const (*event.as_ptr()).event_type).cast::<u32>().read() };
        // SAFETY: an event that was got and not yet acknowledged.
        unsafe { (library.ack_async_event)(event.as_mut_ptr()) };
        Some(match number {
            EVENT_DEVICE_FATAL => AsyncEvent::DeviceFatal,
            EVENT_PORT_ACTIVE => AsyncEvent::PortActive,
            EVENT_PORT_ERROR => AsyncEvent::PortError,
            EVENT_GID_CHANGE => AsyncEvent::AddressesChanged,
            other => AsyncEvent::Other(other),
        })
    }

    /// Whether the system still has it. Some devices say nothing when they are taken away, and the system waits for whoever has
    /// them open.
    pub(crate) fn is_there(&self) -> bool {
        let (path, number) = &self.entry;
        file_number(path) == *number
    }

    /// Keeps buffers until the device is closed.
    pub(super) fn keep(&self, orphans: Orphans) {
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(orphans);
    }

    fn library(&self) -> &'static Library {
        self.context.library
    }
}

fn entry(context: &Context) -> (PathBuf, Option<u64>) {
    // SAFETY: an open context, whose device lives as long; its name ends in zero.
    let name = unsafe { CStr::from_ptr((*(*context.raw()).device).dev_name.as_ptr()) };
    let path = Path::new("/sys/class/infiniband_verbs").join(&*name.to_string_lossy());
    let number = file_number(&path);
    (path, number)
}

fn file_number(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.ino())
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: made by alloc_pd; whatever was made in it holds this device, and so is gone.
        unsafe { (self.library().dealloc_pd)(self.domain.as_ptr()) };
    }
}

/// What a device says without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsyncEvent {
    /// The device works no more.
    DeviceFatal,
    /// A port works again.
    PortActive,
    /// A port has lost its network.
    PortError,
    /// The table of addresses is another one.
    AddressesChanged,
    /// Something that also shows elsewhere, or that does not matter.
    Other(u32),
}

/// Either of two ways in which a device checks the queue pair.
const WINDOWS: c_uint = ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2A.0
    | ibv_device_cap_flags::IBV_DEVICE_MEM_WINDOW_TYPE_2B.0;

/// Numbers of `enum ibv_event_type`.
const EVENT_DEVICE_FATAL: u32 = 8;
const EVENT_PORT_ACTIVE: u32 = 9;
const EVENT_PORT_ERROR: u32 = 10;
const EVENT_GID_CHANGE: u32 = 18;

/// An open context.
pub(super) struct Context {
    raw: NonNull<ibv_context>,
    pub(super) library: &'static Library,
}

impl Context {
    fn open(library: &'static Library, device: *mut rdma_sys::ibv_device) -> io::Result<Self> {
        // SAFETY: a device of a list that is not freed yet.
        Ok(Self { raw: non_null(unsafe { (library.open_device)(device) })?, library })
    }

    pub(super) fn raw(&self) -> *mut ibv_context {
        self.raw.as_ptr()
    }

    fn attributes(&self) -> ibv_device_attr {
        // SAFETY: all zero is a valid value of this structure of numbers; on failure it stays so, which allows nothing.
        unsafe {
            let mut attributes = MaybeUninit::<ibv_device_attr>::zeroed();
            (self.library.query_device)(self.raw(), attributes.as_mut_ptr());
            attributes.assume_init()
        }
    }

    fn port(&self, device: &str, number: u8) -> Option<PortInfo> {
        // SAFETY: all zero is a valid value; the function writes the first part of it.
        let attributes = unsafe {
            let mut attributes = MaybeUninit::<ibv_port_attr>::zeroed();
            if (self.library.query_port)(self.raw(), number, attributes.as_mut_ptr()) != 0 {
                return None;
            }
            attributes.assume_init()
        };
        let is_ethernet = attributes.link_layer == LINK_LAYER_ETHERNET;
        let addresses = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
        let gids = (0..attributes.gid_tbl_len.clamp(0, 255) as u8)
            .filter_map(|index| self.gid(device, number, index))
            .filter(|entry| !is_ethernet || is_of_a_card(entry, &addresses));
        Some(PortInfo {
            number,
            is_active: attributes.state == ibv_port_state::IBV_PORT_ACTIVE,
            is_ethernet,
            lid: attributes.lid,
            mtu: attributes.active_mtu.clamp(ibv_mtu::IBV_MTU_256, ibv_mtu::IBV_MTU_4096),
            gids: gids.collect(),
        })
    }

    fn gid(&self, device: &str, port: u8, index: u8) -> Option<GidEntry> {
        let mut gid = ibv_gid { raw: [0; 16] };
        // SAFETY: an open context, and room for the answer.
        if unsafe { (self.library.query_gid)(self.raw(), port, index.into(), &raw mut gid) } != 0 {
            return None;
        }
        // SAFETY: any 16 bytes are a value of this field.
        let gid = unsafe { gid.raw };
        // Only the file system tells which kind an entry is; classic verbs do not.
        let path = format!("/sys/class/infiniband/{device}/ports/{port}/gid_attrs/types/{index}");
        let kind = std::fs::read_to_string(path).unwrap_or_default();
        let version = if kind.trim().ends_with("v2") { RoceVersion::Two } else { RoceVersion::One };
        (gid != [0; 16]).then_some(GidEntry { index, gid, version })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened once; whoever uses it holds the device.
        unsafe { (self.library.close_device)(self.raw()) };
    }
}

/// Whether packets of an entry can come back: a port of Ethernet has one made of its card's number, which means nothing unless the card has
/// that address of IPv6, by the kernel's list of those.
fn is_of_a_card(entry: &GidEntry, addresses: &str) -> bool {
    let IpAddr::V6(ip) = entry.ip() else { return true };
    let digits = format!("{:032x}", u128::from(ip));
    !ip.is_unicast_link_local() || addresses.lines().any(|line| line.starts_with(&digits))
}

/// `IBV_LINK_LAYER_ETHERNET` of the header, where it is an anonymous constant that the bindings leave out.
const LINK_LAYER_ETHERNET: u8 = 2;

/// Memory of a contiguous pool, registered so that the device may read it and write it. Other machines may not.
pub(crate) struct Region {
    mr: NonNull<ibv_mr>,
    start: usize,
    len: usize,
    device: Arc<Device>,
    /// Keeps the memory where it is.
    _pool: BufferPool,
}

// SAFETY: verbs objects may be used from any thread; the registered memory is only named, never touched, through this.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Registers a contiguous pool.
    pub(crate) fn register(device: &Arc<Device>, pool: &BufferPool) -> Result<Self, StartError> {
        let span = pool.region().expect("a contiguous pool");
        Self::register_span(device, pool, span, ibv_access_flags::IBV_ACCESS_LOCAL_WRITE)
    }

    /// Registers each buffer of a contiguous pool by itself, so that windows may be opened over it: no window reaches beyond, even
    /// on a device that checks no more of it than that.
    pub(crate) fn register_each(device: &Arc<Device>, pool: &BufferPool) -> Result<Vec<Self>, StartError> {
        let access = ibv_access_flags::IBV_ACCESS_MW_BIND;
        pool.spans().map(|span| Self::register_span(device, pool, span, access)).collect()
    }

    /// Registers a part of a contiguous pool.
    fn register_span(
        device: &Arc<Device>,
        pool: &BufferPool,
        (start, len): (*const u8, usize),
        access: ibv_access_flags,
    ) -> Result<Self, StartError> {
        let access = access.0 as c_int;
        // SAFETY: memory of the pool, which lives as long as this.
        let mr = unsafe {
            (device.library().reg_mr)(device.domain.as_ptr(), start.cast_mut().cast(), len, access)
        };
        let mr = non_null(mr).map_err(|source| match source.kind() {
            io::ErrorKind::OutOfMemory | io::ErrorKind::PermissionDenied => {
                StartError::LockedMemory { needed: len, limit: locked_memory_limit() }
            }
            _ => StartError::Device { device: device.name.clone(), what: "registering memory", source },
        })?;
        let (device, pool) = (Arc::clone(device), pool.clone());
        Ok(Self { mr, start: start.addr(), len, device, _pool: pool })
    }

    /// The keys that the device gave it, for itself and for others.
    #[cfg(test)]
    pub(crate) fn keys(&self) -> [u32; 2] {
        // SAFETY: registered, so the structure is there.
        let mr = unsafe { self.mr.as_ref() };
        [mr.lkey, mr.rkey]
    }

    pub(super) fn raw(&self) -> *mut ibv_mr {
        self.mr.as_ptr()
    }

    /// The key by which the device knows this memory, if all of `bytes` is in it.
    pub(super) fn key_of(&self, bytes: &[u8]) -> Option<u32> {
        let offset = bytes.as_ptr().addr().checked_sub(self.start)?;
        // SAFETY: registered, so the structure is there.
        (offset + bytes.len() <= self.len).then_some(unsafe { self.mr.as_ref() }.lkey)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: registered once; queue pairs that use the memory hold this.
        unsafe { (self.device.library().dereg_mr)(self.mr.as_ptr()) };
    }
}

/// How much memory the process may lock, in bytes.
fn locked_memory_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: room for the answer; on failure it stays zero.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur
}

/// The object, or the error that the call left.
pub(super) fn non_null<T>(raw: *mut T) -> io::Result<NonNull<T>> {
    NonNull::new(raw).ok_or_else(io::Error::last_os_error)
}

/// What a function says that returns the number of an error.
pub(super) fn checked(result: c_int) -> io::Result<()> {
    // Some providers return -1 and leave the number elsewhere.
    match result {
        0 => Ok(()),
        number if number > 0 => Err(io::Error::from_raw_os_error(number)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes reads of a descriptor of the library return at once when there is nothing.
pub(super) fn set_nonblocking(fd: RawFd) -> io::Result<()> {
    // SAFETY: no pointers; the kernel checks the descriptor.
    let flags = unsafe { libc::fcntl(fd, libc::F_GETFL) };
    // SAFETY: as above.
    if flags < 0 || unsafe { libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

impl Device {
    /// Makes [`Device::next_event`] return at once when there is nothing.
    pub(crate) fn set_events_nonblocking(&self) -> io::Result<()> {
        set_nonblocking(self.event_fd().as_raw_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_the_link_counts_only_if_the_card_has_it() {
        let addresses = "00000000000000000000000000000001 01 80 10 80       lo\n\
                         fe8000000000000038bcc3fffe283676 02 40 20 80    veth0\n";
        let check = |ip: &str, expected| {
            let gid = ip.parse::<Ipv6Addr>().expect("an address").octets();
            let entry = GidEntry { index: 0, gid, version: RoceVersion::Two };
            assert_eq!(is_of_a_card(&entry, addresses), expected, "{ip}");
        };
        check("fe80::38bc:c3ff:fe28:3676", true);
        check("fe80::38bc:c3ff:fe28:3677", false);
        check("::ffff:10.77.0.1", true);
        check("2001:db8::1", true);
    }
}
