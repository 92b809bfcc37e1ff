//! The command line of QEMU for one guest.

use std::ffi::OsString;
use std::path::Path;

use super::accelerator::Accelerator;
use super::scripts::{HOST_TAG, MTU};

/// What one guest is made of. Paths name files and pipes that QEMU opens when it starts; its input is the socket of the control channel.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    pub(super) accelerator: Accelerator,
    pub(super) memory_mib: u32,
    pub(super) kernel: &'a Path,
    pub(super) first_root: &'a str,
    /// Where the pipes are that it writes to, with their names in the guest; the first is the console.
    pub(super) pipes: [(&'a str, &'a str); 3],
    /// The port of this machine that the wire listens on, and the last byte of the guest's address on it.
    pub(super) wire: Option<(u16, u8)>,
}

impl Machine<'_> {
    /// All arguments.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |words: &str| arguments.extend(words.split_whitespace().map(OsString::from));
        add("-nodefaults -no-user-config -display none -no-reboot -machine pc");
        add(match self.accelerator {
            Accelerator::Kvm => "-accel kvm -cpu host",
            Accelerator::Emulation => "-accel tcg,thread=multi -cpu max",
        });
        add(&format!("-smp {PROCESSORS} -m {}", self.memory_mib));
        add(&format!(
            "-virtfs local,path=/,mount_tag={HOST_TAG},readonly=on,security_model=none,multidevs=remap"
        ));
        add("-device virtio-serial-pci");
        for (index, (name, path)) in self.pipes.into_iter().enumerate() {
            add(&format!("-chardev file,id={name},path={path},append=on"));
            match index {
                0 => add(&format!("-serial chardev:{name}")),
                _ => add(&format!("-device virtserialport,chardev={name},name={name}")),
            }
        }
        add("-chardev socket,id=control,fd=0 -device virtserialport,chardev=control,name=control");
        if let Some((port, number)) = self.wire {
            add(&format!("-netdev socket,id=wire,connect=127.0.0.1:{port}"));
            add(&format!(
                "-device virtio-net-pci,netdev=wire,mac=52:54:00:00:78:{number:02x},host_mtu={MTU}"
            ));
        }
        add(&format!("-initrd {}", self.first_root));
        arguments.extend(["-append".into(), KERNEL_LINE.into(), "-kernel".into(), self.kernel.into()]);
        arguments
    }
}

/// What the kernel is told: to speak to the console, to end QEMU when it panics, to trust the processor's counter as its clock and the
/// timer to tick (where this machine is busy it may not while the kernel tries it out), and to leave out what takes time and shows
/// nothing here.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 no_timer_check tsc=reliable random.trust_cpu=on cryptomgr.notests \
                           rcupdate.rcu_expedited=1 mitigations=off nokaslr audit=0 nowatchdog";
/// Two threads that talk to each other run beside each other.
const PROCESSORS: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn line(accelerator: Accelerator, wire: Option<(u16, u8)>) -> String {
        let pipes = [("console", "/p/1"), ("output", "/p/2"), ("errors", "/p/3")];
        let machine = Machine {
            accelerator,
            memory_mib: 1024,
            kernel: Path::new("/k/vmlinuz"),
            first_root: "/p/4",
            pipes,
            wire,
        };
        let words = machine.arguments();
        words.iter().map(|word| word.to_str().expect("text")).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_root_is_shared_for_reading_only() {
        let line = line(Accelerator::Emulation, None);
        assert!(line.contains("path=/,mount_tag=host,readonly=on"), "{line}");
        assert!(line.contains("-accel tcg") && !line.contains("kvm"), "{line}");
        assert!(!line.contains("-netdev"), "{line}");
    }

    #[test]
    fn the_console_is_apart_from_the_outputs() {
        let line = line(Accelerator::Kvm, None);
        assert!(
            line.contains("-chardev file,id=console,path=/p/1,append=on -serial chardev:console"),
            "{line}"
        );
        assert!(
            line.contains("id=output,path=/p/2,append=on -device virtserialport,chardev=output"),
            "{line}"
        );
    }

    #[test]
    fn a_guest_on_a_wire_has_an_address_of_its_own() {
        let line = line(Accelerator::Kvm, Some((4000, 3)));
        assert!(line.contains("connect=127.0.0.1:4000") && line.contains("mac=52:54:00:00:78:03"), "{line}");
    }
}
