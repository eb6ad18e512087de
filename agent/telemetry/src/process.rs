//! What the kernel says about this process.

use std::fs;

use crate::Samples;

/// Adds open and allowed file descriptors and the resident set; what cannot be read is left out.
pub(crate) fn sample(samples: &mut Samples) {
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        // The listing itself holds one.
        let open = entries.count().saturating_sub(1);
        samples.gauge(
            "process_open_fds",
            "Open file descriptors",
            &[],
            open as f64,
        );
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    if let Some(max) = max_open_files(&limits) {
        samples.gauge(
            "process_max_fds",
            "Allowed file descriptors",
            &[],
            max as f64,
        );
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(kib) = resident_kib(&status) {
        let bytes = kib.saturating_mul(1024) as f64;
        samples.gauge(
            "process_resident_memory_bytes",
            "Resident memory of the process",
            &[],
            bytes,
        );
    }
}

/// The soft limit in `/proc/self/limits`; `None` when it is not a number (`unlimited`).
fn max_open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find(|l| l.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// `VmRSS` of `/proc/self/status`, in KiB.
fn resident_kib(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read() {
        let limits = "Limit  Soft Limit Hard Limit Units\nMax open files   1024   4096   files\n";
        assert_eq!(max_open_files(limits), Some(1024));
        assert_eq!(
            max_open_files("Max open files unlimited unlimited files"),
            None
        );
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  1234 kB\n"), Some(1234));
        assert_eq!(resident_kib(""), None);
    }
}
