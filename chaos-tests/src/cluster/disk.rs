//! A separate disk for a node: a file system in an image, which can fill up, become read-only, hang and lose
//! power.
//!
//! The kernel produces every fault. Data that was not synced at a power failure is really lost, and a hanging
//! `fdatasync` really hangs. Needs root, loop devices and the tools of ext4.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::sys::statvfs::statvfs;

/// Length of an image, in bytes. The file is sparse, so it uses only as much space as was written.
const IMAGE_LEN: u64 = 512 * 1024 * 1024;
const BALLAST: &str = "ballast";
/// `EXT4_IOC_SHUTDOWN` without flushing the journal, which simulates a power failure. Perl is part of
/// Debian's base system.
const POWER_OFF: &str = r#"my $how = pack("L", 2); open(my $at, "<", $ARGV[0]) or die "$!"; ioctl($at, 0x8004587D, $how) or die "$!";"#;

/// A node's disk.
#[derive(Debug)]
pub struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    /// Why such disks cannot be created here; `None` if they can.
    pub fn missing() -> Option<String> {
        let dir = match tempfile::tempdir() {
            Ok(dir) => dir,
            Err(error) => return Some(error.to_string()),
        };
        if let Err(error) = Self::make(&dir.path().join("probe.img"), &dir.path().join("probe")) {
            return Some(format!(
                "a disk of its own for each node (root, loop devices, mkfs.ext4 of e2fsprogs, perl): {error:#}"
            ));
        }
        None
    }

    /// Creates the image and mounts it.
    pub fn make(image: &Path, at: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(at)?;
        File::create(image)?.set_len(IMAGE_LEN)?;
        run("mkfs.ext4", &["-q", "-F", "-m", "0", &image.display().to_string()])?;
        run("perl", &["-e", "1"])?;
        let disk = Self { image: image.into(), at: at.into() };
        disk.mount()?;
        Ok(disk)
    }

    fn mount(&self) -> anyhow::Result<()> {
        let (image, at) = (self.image.display().to_string(), self.at.display().to_string());
        run("mount", &["-o", "loop,errors=remount-ro", &image, &at])
    }

    /// Uses every free block.
    pub fn fill(&self) -> anyhow::Result<()> {
        let stat = statvfs(&self.at)?;
        let free = stat.blocks_available() * stat.fragment_size();
        let mut ballast = File::create(self.at.join(BALLAST))?;
        let most = i64::try_from(free.saturating_sub(256 * 1024))?;
        if most > 0 {
            nix::fcntl::posix_fallocate(ballast.as_fd(), 0, most).context("filling the disk")?;
            std::io::Seek::seek(&mut ballast, std::io::SeekFrom::End(0))?;
        }
        // The last blocks are used one by one, so that none remains free.
        while ballast.write_all(&[0; 4_096]).is_ok() {}
        Ok(())
    }

    /// Frees the blocks.
    pub fn make_room(&self) -> anyhow::Result<()> {
        Ok(fs::remove_file(self.at.join(BALLAST))?)
    }

    /// Makes it read-only while it is in use, as the kernel does when a disk reports errors.
    pub fn fail(&self) -> anyhow::Result<()> {
        let device = self.device()?;
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        // The write returns the error that it causes.
        let _error = fs::write(&trigger, "chaos");
        let mounts = fs::read_to_string("/proc/mounts")?;
        let at = self.at.display().to_string();
        let line = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some(at.as_str()));
        let line = line.with_context(|| format!("{at} is not mounted"))?;
        if !line.contains("emergency_ro") && !line.contains(" ro,") {
            bail!("{trigger} did not turn {at} read-only: {line}");
        }
        Ok(())
    }

    /// Unmounts, repairs and mounts it. Nobody may use it during that time.
    pub fn repair(&self) -> anyhow::Result<()> {
        run("umount", &[&self.at.display().to_string()])?;
        let check =
            Command::new("e2fsck").arg("-fy").arg(&self.image).output().context("e2fsck")?;
        // Status 1 means that errors were corrected.
        if !matches!(check.status.code(), Some(0 | 1)) {
            bail!("e2fsck: {}", String::from_utf8_lossy(&check.stdout));
        }
        self.mount()
    }

    /// Makes every write and sync hang until [`Disk::thaw`].
    pub fn freeze(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["--freeze", &self.at.display().to_string()])
    }

    /// Ends the hang of writes and syncs.
    pub fn thaw(&self) -> anyhow::Result<()> {
        run("fsfreeze", &["--unfreeze", &self.at.display().to_string()])
    }

    /// Drops what was not synced. Its users get errors from now on.
    pub fn lose_power(&self) -> anyhow::Result<()> {
        run("perl", &["-e", POWER_OFF, &self.at.display().to_string()])
    }

    /// Mounts it again after a power failure. Nobody may use it during that time.
    pub fn power_on(&self) -> anyhow::Result<()> {
        run("umount", &[&self.at.display().to_string()])?;
        self.mount()
    }

    /// Freezes it for `hold_ms`, then lets it work for `gap_ms`, repeatedly until the handle is dropped.
    pub fn slow_down(&self, hold_ms: u64, gap_ms: u64) -> SlowDisk {
        let at = self.at.clone();
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let pulses = std::thread::spawn(move || {
            let disk = at.display().to_string();
            let mut wait_ms = gap_ms;
            let mut frozen = false;
            // The thread ends when the sender is dropped.
            while let Err(std::sync::mpsc::RecvTimeoutError::Timeout) =
                stopped.recv_timeout(std::time::Duration::from_millis(wait_ms))
            {
                let word = if frozen { "--unfreeze" } else { "--freeze" };
                frozen = run("fsfreeze", &[word, &disk]).is_ok() && !frozen;
                wait_ms = if frozen { hold_ms } else { gap_ms };
            }
            if frozen {
                let _thawed = run("fsfreeze", &["--unfreeze", &disk]);
            }
        });
        SlowDisk { stop: Some(stop), pulses: Some(pulses) }
    }

    fn device(&self) -> anyhow::Result<String> {
        let output = Command::new("losetup").arg("-j").arg(&self.image).output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let device = text.split(':').next().and_then(|path| path.strip_prefix("/dev/"));
        Ok(device.with_context(|| format!("{} has no device", self.image.display()))?.to_owned())
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = self.at.display().to_string();
        // A process that waits for a frozen disk cannot even be killed. The command fails if the disk is not
        // frozen.
        let _thawed = run("fsfreeze", &["--unfreeze", &at]);
        // Its users may still be ending. The kernel releases it when the last one has ended.
        let _gone = run("umount", &["-l", &at]);
    }
}

/// A disk that is slow until this value is dropped.
#[derive(Debug)]
pub struct SlowDisk {
    stop: Option<std::sync::mpsc::Sender<()>>,
    pulses: Option<std::thread::JoinHandle<()>>,
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(pulses) = self.pulses.take() {
            let _ended = pulses.join();
        }
    }
}

fn run(program: &str, words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk for a test; `None`, with a message, if it cannot be created, for example without root.
    fn disk(dir: &Path) -> Option<Disk> {
        match Disk::missing() {
            Some(missing) => {
                eprintln!("SKIPPED: {missing}");
                None
            }
            None => Some(Disk::make(&dir.join("a.img"), &dir.join("a")).unwrap()),
        }
    }

    #[test]
    fn power_takes_what_was_not_synced_and_leaves_what_was() {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = disk(dir.path()) else { return };
        let (kept, lost) = (dir.path().join("a/kept"), dir.path().join("a/lost"));
        fs::write(&kept, "x").unwrap();
        File::open(&kept).unwrap().sync_all().unwrap();
        File::open(dir.path().join("a")).unwrap().sync_all().unwrap();
        fs::write(&lost, "x").unwrap();
        disk.lose_power().unwrap();
        assert!(fs::read(&kept).is_err());
        disk.power_on().unwrap();
        assert_eq!(fs::read(&kept).unwrap(), b"x");
        assert!(!lost.exists());
    }

    #[test]
    fn a_full_and_a_failed_disk_take_no_writes_and_can_be_mended() {
        let dir = tempfile::tempdir().unwrap();
        let Some(disk) = disk(dir.path()) else { return };
        let write = || fs::write(dir.path().join("a/file"), [1; 8_192]);
        write().unwrap();
        disk.fill().unwrap();
        assert!(fs::write(dir.path().join("a/other"), [1; 8_192]).is_err());
        disk.make_room().unwrap();
        write().unwrap();
        disk.fail().unwrap();
        assert!(write().is_err());
        disk.repair().unwrap();
        write().unwrap();
    }
}
