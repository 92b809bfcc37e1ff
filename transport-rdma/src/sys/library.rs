//! The functions that the shared library exports, found at run time.
#![allow(unsafe_code)]

use crate::error::StartError;
use rdma_sys::{
    ibv_async_event, ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_device_attr, ibv_gid, ibv_mr,
    ibv_pd, ibv_port_attr, ibv_qp, ibv_qp_attr, ibv_qp_init_attr,
};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;

/// Declares the table of functions, and how it is filled.
macro_rules! library {
    ($($(#[$doc:meta])* $name:ident: $symbol:literal, ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// Every function of the library that is used, each as its header declares it.
        pub(super) struct Library {
            $($(#[$doc])* pub(super) $name: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Library {
            fn load() -> Result<Self, String> {
                // SAFETY: a name that ends in zero; the library's initialisers are those of the system.
                let handle = unsafe { libc::dlopen(LIBRARY_NAME.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
                if handle.is_null() {
                    return Err(last_error());
                }
                Ok(Self {
                    $($name: {
                        let symbol = find(handle, $symbol)?;
                        // SAFETY: the header of the library declares this symbol with exactly this type, and the
                        // handle is never closed.
                        unsafe {
                            std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) $(-> $result)?>(symbol)
                        }
                    },)*
                })
            }
        }
    };
}

library! {
    get_device_list: c"ibv_get_device_list", (*mut c_int) -> *mut *mut ibv_device;
    free_device_list: c"ibv_free_device_list", (*mut *mut ibv_device);
    get_device_name: c"ibv_get_device_name", (*mut ibv_device) -> *const c_char;
    open_device: c"ibv_open_device", (*mut ibv_device) -> *mut ibv_context;
    close_device: c"ibv_close_device", (*mut ibv_context) -> c_int;
    query_device: c"ibv_query_device", (*mut ibv_context, *mut ibv_device_attr) -> c_int;
    /// Writes the first part of the attributes only: the rest must be zero before.
    query_port: c"ibv_query_port", (*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
    query_gid: c"ibv_query_gid", (*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
    get_async_event: c"ibv_get_async_event", (*mut ibv_context, *mut ibv_async_event) -> c_int;
    ack_async_event: c"ibv_ack_async_event", (*mut ibv_async_event);
    alloc_pd: c"ibv_alloc_pd", (*mut ibv_context) -> *mut ibv_pd;
    dealloc_pd: c"ibv_dealloc_pd", (*mut ibv_pd) -> c_int;
    reg_mr: c"ibv_reg_mr", (*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    dereg_mr: c"ibv_dereg_mr", (*mut ibv_mr) -> c_int;
    create_comp_channel: c"ibv_create_comp_channel", (*mut ibv_context) -> *mut ibv_comp_channel;
    destroy_comp_channel: c"ibv_destroy_comp_channel", (*mut ibv_comp_channel) -> c_int;
    create_cq: c"ibv_create_cq", (*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    destroy_cq: c"ibv_destroy_cq", (*mut ibv_cq) -> c_int;
    get_cq_event: c"ibv_get_cq_event", (*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ack_cq_events: c"ibv_ack_cq_events", (*mut ibv_cq, c_uint);
    create_qp: c"ibv_create_qp", (*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    modify_qp: c"ibv_modify_qp", (*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    destroy_qp: c"ibv_destroy_qp", (*mut ibv_qp) -> c_int;
}

impl Library {
    /// The library, loaded once for the process.
    pub(super) fn get() -> Result<&'static Self, StartError> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        LIBRARY.get_or_init(Self::load).as_ref().map_err(|error| StartError::NoLibrary(error.clone()))
    }
}

fn find(handle: *mut c_void, name: &CStr) -> Result<*mut c_void, String> {
    // SAFETY: a handle that dlopen gave, and a name that ends in zero.
    let symbol = unsafe { libc::dlsym(handle, name.as_ptr()) };
    if symbol.is_null() { Err(last_error()) } else { Ok(symbol) }
}

fn last_error() -> String {
    // SAFETY: dlerror has no arguments; what it gives lives until the next call of this thread, and is copied before.
    unsafe {
        let text = libc::dlerror();
        if text.is_null() {
            "no reason given".into()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    }
}

const LIBRARY_NAME: &CStr = c"libibverbs.so.1";
