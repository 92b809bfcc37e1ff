//! What a guest is made of, fetched where it is missing: programs of this machine, a stock kernel, a static busybox.
//!
//! Programs are installed, which needs root; kernel and busybox are only unpacked, in the cache folder of the user. Other
//! processes that want the same wait for a lock, and nothing that is there half is ever used.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use super::image;
use crate::packages::{finds_program, install, is_root, run};

/// Everything in place.
#[derive(Debug)]
pub(super) struct Kit {
    /// Where the cached things are.
    pub(super) cache: PathBuf,
    /// The kernel's version, as it calls itself.
    pub(super) version: String,
    folder: PathBuf,
}

impl Kit {
    /// Looks what is there, and fetches the rest.
    ///
    /// # Errors
    /// A sentence that says what is missing and what to do.
    pub(super) fn complete() -> Result<Self, String> {
        if env::consts::ARCH != "x86_64" || env::consts::OS != "linux" {
            return Err("guests are for Linux on x86-64 only; run the command on such a machine".to_owned());
        }
        install_programs()?;
        let cache = cache_folder()?;
        fs::create_dir_all(&cache).map_err(|error| cannot("create", &cache, &error))?;
        let lock_path = cache.join("lock");
        let lock = File::create(&lock_path).map_err(|error| cannot("create", &lock_path, &error))?;
        lock.lock().map_err(|error| cannot("lock", &lock_path, &error))?;
        if !cache.join(BUSYBOX).exists() {
            fetch_busybox(&cache)?;
        }
        let folder = match newest_kernel(&cache) {
            Some(folder) => folder,
            None => fetch_kernel(&cache)?,
        };
        let version = only_entry(&folder.join("lib/modules"))?;
        Ok(Self { cache, version, folder })
    }

    /// The kernel to boot.
    pub(super) fn kernel(&self) -> PathBuf {
        let unpacked = self.folder.join(UNPACKED);
        if unpacked.exists() { unpacked } else { boot_image(&self.folder, &self.version) }
    }

    /// The folder of its modules.
    pub(super) fn modules(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.version)
    }

    /// The static busybox.
    pub(super) fn busybox(&self) -> PathBuf {
        self.cache.join(BUSYBOX)
    }
}

fn install_programs() -> Result<(), String> {
    let missing: Vec<_> = PROGRAMS.into_iter().filter(|(program, _)| !finds_program(program)).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    install(&packages, &format!("a guest needs {}", programs.join(", ")))?;
    match PROGRAMS.into_iter().find(|(program, _)| !finds_program(program)) {
        None => Ok(()),
        Some((program, package)) => Err(format!("`{package}` was installed, but there is no `{program}`")),
    }
}

fn fetch_busybox(cache: &Path) -> Result<(), String> {
    eprintln!("vm: downloading busybox-static (once)");
    let partial = download("busybox-static", cache)?;
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| partial.join(place));
    let file = places.into_iter().find(|file| file.is_file()).ok_or("busybox-static has no busybox")?;
    fs::rename(&file, cache.join(BUSYBOX)).map_err(|error| cannot("move", &file, &error))?;
    fs::remove_dir_all(&partial).map_err(|error| cannot("remove", &partial, &error))
}

fn fetch_kernel(cache: &Path) -> Result<PathBuf, String> {
    let package = kernel_package()?;
    eprintln!("vm: downloading {package} (once)");
    let partial = download(&package, cache)?;
    let version = only_entry(&partial.join("lib/modules"))?;
    let base = partial.to_string_lossy().into_owned();
    run("depmod", ["-b", base.as_str(), version.as_str()], None)?;
    unpack(&partial, &version)?;
    let folder = cache.join(format!("{KERNEL_PREFIX}{version}"));
    fs::rename(&partial, &folder).map_err(|error| cannot("move", &partial, &error))?;
    Ok(folder)
}

/// Unpacks the kernel, if it is packed in the way that we know.
fn unpack(folder: &Path, version: &str) -> Result<(), String> {
    let image = boot_image(folder, version);
    let image = fs::read(&image).map_err(|error| cannot("read", &image, &error))?;
    let Some(packed) = image::packed(&image) else { return Ok(()) };
    let unpacked = folder.join(UNPACKED);
    let packed_file = unpacked.with_extension("xz");
    fs::write(&packed_file, packed).map_err(|error| cannot("write", &packed_file, &error))?;
    run("xz", ["--decompress", &packed_file.to_string_lossy()], None).map(|_| ())
}

fn boot_image(folder: &Path, version: &str) -> PathBuf {
    folder.join(format!("boot/vmlinuz-{version}"))
}

/// Downloads that package and unpacks it in a folder of the cache, where what an earlier try left is removed.
fn download(package: &str, cache: &Path) -> Result<PathBuf, String> {
    let partial = cache.join("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|error| cannot("remove", &partial, &error))?;
    }
    fs::create_dir(&partial).map_err(|error| cannot("create", &partial, &error))?;
    run("apt-get", ["download", package], Some(&partial)).or_else(|error| {
        if !is_root() {
            return Err(format!(
                "{error}\nif the list of packages is missing or old, run `sudo apt-get update`"
            ));
        }
        run("apt-get", ["update"], None)?;
        run("apt-get", ["download", package], Some(&partial))
    })?;
    let file = only_entry(&partial)?;
    run("dpkg", ["-x", file.as_str(), "."], Some(&partial))?;
    let file = partial.join(file);
    fs::remove_file(&file).map_err(|error| cannot("remove", &file, &error))?;
    Ok(partial)
}

/// The package of the stock kernel that this distribution is at. Not that for clouds, which has no TIPC.
fn kernel_package() -> Result<String, String> {
    let find = || Some(named_kernel(&run("apt-cache", ["depends", KERNEL], None).ok()?)?.to_owned());
    let found = find().or_else(|| {
        run("apt-get", ["update"], None).ok()?;
        find()
    });
    found.ok_or_else(|| {
        format!(
            "apt knows no package `{KERNEL}`; run `sudo apt-get update`, or add a source of Debian packages"
        )
    })
}

/// The kernel that `apt-cache depends` names.
fn named_kernel(text: &str) -> Option<&str> {
    let mut names =
        text.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
    names.find(|name| name.starts_with("linux-image-"))
}

fn newest_kernel(cache: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(cache).ok()?.flatten();
    let kernels = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(KERNEL_PREFIX));
    kernels.map(|entry| entry.path()).max()
}

fn only_entry(folder: &Path) -> Result<String, String> {
    let mut entries = fs::read_dir(folder).map_err(|error| cannot("read", folder, &error))?.flatten();
    let entry = entries.next().ok_or_else(|| format!("{} is empty; remove it", folder.display()))?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

fn cache_folder() -> Result<PathBuf, String> {
    let given = env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let by_home =
        || env::var_os("HOME").filter(|path| !path.is_empty()).map(|home| PathBuf::from(home).join(".cache"));
    let base = given.or_else(by_home).ok_or("neither XDG_CACHE_HOME nor HOME is set; set one of them")?;
    Ok(base.join(CACHE))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}

/// What must be installed here, and by which package.
const PROGRAMS: [(&str, &str); 7] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("depmod", "kmod"),
    ("ip", "iproute2"),
    ("tipc", "iproute2"),
    ("rdma", "iproute2"),
    ("setpriv", "util-linux"),
    ("xz", "xz-utils"),
];
const CACHE: &str = "epicserver-vm";
const BUSYBOX: &str = "busybox";
const KERNEL: &str = "linux-image-amd64";
/// The unpacked kernel in its folder.
const UNPACKED: &str = "boot/vmlinux";
const KERNEL_PREFIX: &str = "linux-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stock_kernel_is_the_one_that_the_general_package_needs() {
        let text = "linux-image-amd64\n  Depends: linux-image-6.1.0-56-amd64\n  Conflicts: x\n";
        assert_eq!(named_kernel(text), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(named_kernel("linux-image-amd64\n |Depends: linux-image-7\n"), Some("linux-image-7"));
        assert_eq!(named_kernel(""), None);
    }
}
