//! What runs inside of a guest: the first root's `init`, and the job that it leads to.

use std::env;

use super::stream::END_FORMAT;

/// The command to run, and where.
#[derive(Clone, Debug, Default)]
pub(super) struct Job {
    /// Program and arguments.
    pub(super) command: Vec<String>,
    /// The folder it runs in.
    pub(super) folder: String,
    /// Its environment.
    pub(super) environment: Vec<(String, String)>,
}

/// The guest that runs it, among how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) number: u8,
    /// All of them.
    pub(super) guests: u8,
}

impl Job {
    /// That command, as this process would run it.
    ///
    /// # Errors
    /// The current folder has no name that can be passed on.
    pub(super) fn of_this_process(command: &[String]) -> Result<Self, String> {
        let folder =
            env::current_dir().map_err(|error| format!("the current folder is not known: {error}"))?;
        let folder = folder.into_os_string().into_string();
        let folder = folder.map_err(|folder| format!("the name of {folder:?} is not UTF-8"))?;
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let environment = env::vars_os().filter_map(text).filter(|(name, _)| is_name(name)).collect();
        Ok(Self { command: command.to_vec(), folder, environment })
    }

    /// The script that the guest's root is left to.
    pub(super) fn script(&self, place: Place, modules_folder: &str, kernel: &str) -> String {
        let exports: String = self
            .environment
            .iter()
            .map(|(name, value)| format!("export {name}={}\n", quoted(value)))
            .collect();
        let command: Vec<_> = self.command.iter().map(|word| quoted(word)).collect();
        let network = network(place);
        let Place { number, guests } = place;
        let (folder, command, modules_folder) =
            (quoted(&self.folder), command.join(" "), quoted(modules_folder));
        format!(
            r#"mount -t tmpfs tmpfs /run
mkdir -p /dev/pts /dev/shm /lib/modules
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -sfn {modules_folder} /lib/modules/{kernel}
hostname guest{number}
{CLOCK}
{network}
for port in /sys/class/virtio-ports/*; do
  read -r name < "$port/name"
  case "$name" in
    control) exec 3<> "/dev/${{port##*/}}" ;;
    output) exec 4> "/dev/${{port##*/}}" ;;
    errors) exec 5> "/dev/${{port##*/}}" ;;
  esac
done
echo ready >&3
read -r begin <&3
(
{exports}export VM_GUEST={number} VM_GUESTS={guests}
cd {folder} && exec {command}
) < /dev/null >&4 2>&5 3>&- 4>&- 5>&-
status=$?
printf '{END_FORMAT}' >&4
printf '{END_FORMAT}' >&5
echo "status $status" >&3
echo o > /proc/sysrq-trigger
sleep 60
"#
        )
    }
}

/// `init` of the first root: loads what is needed to see the host's files, and what the job finds loaded.
pub(super) fn init(module_files: usize) -> String {
    let loads: String =
        (0..module_files).map(|index| format!("$b insmod {}\n", module_path(index))).collect();
    format!(
        "#!{BUSYBOX} sh
b={BUSYBOX}
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
{loads}$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose {HOST_TAG} /host
$b mount -t tmpfs tmpfs /memory
$b mkdir /memory/changes /memory/work
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/changes,workdir=/memory/work overlay /merged
for folder in /dev /proc /sys; do $b mount --move $folder /merged$folder; done
$b mount -t tmpfs tmpfs /merged/mnt
$b cp {JOB} /merged/mnt/job
exec $b switch_root /merged /bin/sh /mnt/job
"
    )
}

/// Where the first root has its module of that index.
pub(super) fn module_path(index: usize) -> String {
    format!("/modules/{index}.ko")
}

/// Where the machine is busy while the kernel measures how fast the processor's counter counts, the guest's clock may run several times too
/// fast or too slow. The chips that it measures by are slow to read and always right.
const CLOCK: &str = r#"chip=$(cat /sys/class/rtc/rtc0/since_epoch)
drift=$(($(date +%s) - chip))
if [ "${drift#-}" -gt 2 ]; then
  echo "the clock went $drift s wrong: taking another" > /dev/console
  echo hpet > /sys/devices/system/clocksource/clocksource0/current_clocksource
  date -s "@$chip" > /dev/null
fi"#;

/// Devices and addresses: a pair of our own in one guest, the wire between several.
fn network(place: Place) -> String {
    let Place { number, guests } = place;
    if guests == 1 {
        return format!(
            "ip -batch - <<END
link set lo up
link add veth0 mtu {MTU} type veth peer name veth1 mtu {MTU}
address add 10.77.0.1/24 dev veth0
link set veth0 up
link set veth1 up
END
rdma link add rxe0 type rxe netdev veth0"
        );
    }
    format!(
        "ip -batch - <<END
link set lo up
link set eth0 mtu {MTU}
address add 10.78.0.{number}/24 dev eth0
link set eth0 up
END
tipc node set identity guest{number}
tipc bearer enable media eth device eth0
rdma link add rxe0 type rxe netdev eth0"
    )
}

/// Whether a shell can have a variable of that name.
fn is_name(name: &str) -> bool {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    name.starts_with(|first: char| !first.is_ascii_digit()) && name.chars().all(is_word)
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Where the first root has its only program.
pub(super) const BUSYBOX: &str = "/bin/busybox";
/// Where the first root has the job.
pub(super) const JOB: &str = "/job";
/// Folders of the first root.
pub(super) const FOLDERS: [&str; 8] = ["bin", "modules", "dev", "proc", "sys", "host", "memory", "merged"];
/// What the host's files are called between QEMU and the guest.
pub(super) const HOST_TAG: &str = "host";
/// Modules to see the host's files and to be heard, then what the job is here for.
pub(super) const MODULES: [&str; 9] = [
    "virtio_pci",
    "virtio_console",
    "virtio_net",
    "9pnet_virtio",
    "9p",
    "overlay",
    "veth",
    "tipc",
    "rdma_rxe",
];
/// Enough for packets of 4096 bytes with the headers of RoCE.
pub(super) const MTU: u32 = 4400;

#[cfg(test)]
mod tests {
    use super::*;

    fn script(job: &Job, guests: u8) -> String {
        job.script(Place { number: 1, guests }, "/cache/modules", "6.1")
    }

    /// What the shell makes of that part of the script that leads to the command.
    fn shell(script: &str) -> String {
        let (_, rest) = script.split_once("read -r begin <&3\n").expect("the script has it");
        let (part, _) = rest.split_once("status=$?").expect("the script has it");
        let part = part.replace(">&4 2>&5 3>&- 4>&- 5>&-", "2>&1");
        let output = std::process::Command::new("/bin/sh").args(["-c", &part]).env_clear().output();
        String::from_utf8(output.expect("there is a shell").stdout).expect("text")
    }

    #[test]
    fn words_folder_and_environment_arrive_as_they_are() {
        let job = Job {
            command: ["/bin/sh", "-c", r#"echo "$A|$VM_GUEST/$VM_GUESTS|$1|$2|$(pwd)""#, "x", "it's $A", ""]
                .map(str::to_owned)
                .to_vec(),
            folder: "/".to_owned(),
            environment: vec![("A".to_owned(), "a 'b' $c\nd".to_owned())],
        };
        assert_eq!(shell(&script(&job, 2)), "a 'b' $c\nd|1/2|it's $A||/\n");
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_failure_and_nothing_runs() {
        let job = Job {
            command: vec!["echo".to_owned(), "ran".to_owned()],
            folder: "/nowhere/at/all".to_owned(),
            environment: Vec::new(),
        };
        let said = shell(&script(&job, 1));
        assert!(said.contains("/nowhere/at/all") && !said.contains("ran"), "{said}");
    }

    #[test]
    fn one_guest_has_a_pair_and_several_have_the_wire() {
        assert!(script(&Job::default(), 1).contains("rdma link add rxe0 type rxe netdev veth0"));
        let several = script(&Job::default(), 3);
        assert!(several.contains("tipc bearer enable media eth device eth0") && !several.contains("veth"));
    }

    #[test]
    fn names_that_a_shell_cannot_have_are_left_out() {
        assert!(is_name("A_1") && !is_name("1A") && !is_name("BASH_FUNC_x%%") && !is_name(""));
    }

    #[test]
    fn every_module_of_the_archive_is_loaded_in_order() {
        let init = init(2);
        let loads: Vec<_> = init.lines().filter(|line| line.contains("insmod")).collect();
        assert_eq!(loads, ["$b insmod /modules/0.ko", "$b insmod /modules/1.ko"]);
    }
}
