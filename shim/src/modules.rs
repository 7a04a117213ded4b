//! No modules of the C library.
//!
//! A static program of glibc still loads modules for names (nss(5)), character sets and the like: at paths, and by
//! configuration files, that a job can bind. Their code would run in wasm-shim, which has the rights that its guest must
//! not have. So the functions by which glibc loads modules load none here (glibc 2.36, `elf/dl-libc.c`): names come from
//! `/etc/hosts` and DNS, which are part of glibc since 2.34.
#![expect(unsafe_code, reason = "the names must be those that the C library calls")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;

#[unsafe(no_mangle)]
extern "C" fn __libc_dlopen_mode(_name: *const c_char, _mode: c_int) -> *mut c_void {
    null_mut()
}

#[unsafe(no_mangle)]
extern "C" fn __libc_dlsym(_module: *mut c_void, _name: *const c_char) -> *mut c_void {
    null_mut()
}

#[unsafe(no_mangle)]
extern "C" fn __libc_dlvsym(
    _module: *mut c_void,
    _name: *const c_char,
    _version: *const c_char,
) -> *mut c_void {
    null_mut()
}

#[unsafe(no_mangle)]
extern "C" fn __libc_dlclose(_module: *mut c_void) -> c_int {
    0
}
