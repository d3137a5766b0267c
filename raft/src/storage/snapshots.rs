//! Snapshot files: how they are written, verified, stored and found.
//!
//! A file is `u32 head length | head in its envelope | body | trailer`. The trailer has the body's length and
//! a checksum over everything before it. A file gets its name, which orders it by index, only once it is
//! complete and durable. A backup is the same kind of file in another place.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::snapshot_attempts::Attempts;
use super::{damaged, sync_dir};
use crate::application::SnapshotEncoder;
use crate::codec::{self, SnapshotHead, SnapshotHeadDto};
use crate::config::NodeId;
use crate::consensus::{self, SnapshotMeta, StoredMembership};
use crate::room;

const TRAILER_MAGIC: [u8; 4] = *b"MXSE";
const TRAILER_LEN: u64 = 8 + 4 + 4;
const HEAD_LEN_MAX: u32 = 1024 * 1024;
/// With more free space than this, in bytes, and four times the last snapshot, the size of the state is not determined
/// before it is written, because that takes as long as writing.
const AMPLE_BYTES: u64 = 1024 * 1024 * 1024;
/// After this number of entries, a snapshot lets the log be shortened (`consensus_core`), so less space must stay free.
const SHORTENS_AFTER: u64 = 6_000;
/// The space that must stay free beside such a snapshot, in bytes.
const SPARE_BYTES_MIN: u64 = 1024 * 1024;

/// An error about a file that is not a complete snapshot. It gives no advice, because the file may be a
/// backup or may have been received from another node.
fn unreadable(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A complete, verified snapshot file. It stays readable when the file is removed.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    pub(crate) len: u64,
    pub(crate) head: SnapshotHeadDto,
    /// Every node id that was ever a member up to the snapshot's index.
    pub(crate) used_ids: BTreeSet<NodeId>,
    body_start: u64,
    body_len: u64,
}

impl SnapshotFile {
    /// Opens a file and verifies all of it. Blocks.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let mut file = maxine_files::open(OpenOptions::new().read(true), path)?;
        let len = file.metadata()?.len();
        let broken = |what: &str| unreadable(format!("snapshot {} {what}", path.display()));
        if len < 4 + TRAILER_LEN {
            return Err(broken("is cut short"));
        }
        file.seek(SeekFrom::End(-(TRAILER_LEN as i64)))?;
        let mut trailer = [0; TRAILER_LEN as usize];
        file.read_exact(&mut trailer)?;
        if trailer[12..] != TRAILER_MAGIC {
            return Err(broken("has no end mark: it is cut short or not a snapshot"));
        }
        let body_len =
            u64::from_le_bytes(trailer[..8].try_into().expect("the slice has eight bytes"));
        let sum = u32::from_le_bytes(trailer[8..12].try_into().expect("the slice has four bytes"));
        file.seek(SeekFrom::Start(0))?;
        let mut checked = ChecksumReader {
            inner: BufReader::with_capacity(256 * 1024, &file).take(len - TRAILER_LEN),
            sum: 0,
        };
        let mut head_len = [0; 4];
        checked.read_exact(&mut head_len)?;
        let head_len = u32::from_le_bytes(head_len);
        let expected = body_len.checked_add(4 + u64::from(head_len) + TRAILER_LEN);
        if head_len > HEAD_LEN_MAX || expected != Some(len) {
            return Err(broken("has lengths that do not add up"));
        }
        let mut head = vec![0; head_len as usize];
        checked.read_exact(&mut head)?;
        io::copy(&mut checked, &mut io::sink())?;
        if checked.sum != sum {
            return Err(broken("fails its checksum"));
        }
        let (head, used) = match codec::decode(&head)
            .map_err(|error| broken(&format!("has a bad head: {error}")))?
        {
            SnapshotHead::V1(head) => (head, Vec::new()),
            SnapshotHead::V2(head, used) => (head, used),
        };
        let members = head.membership.members.iter().map(|member| member.id);
        let used_ids = used.into_iter().chain(members).collect();
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            len,
            head,
            used_ids,
            body_start: 4 + u64::from(head_len),
            body_len,
        })
    }

    pub(crate) fn index(&self) -> u64 {
        self.head.last.map_or(0, |id| id.index)
    }

    pub(crate) fn meta(&self) -> io::Result<SnapshotMeta> {
        let membership =
            consensus::membership_from_dto(self.head.membership.clone()).map_err(|error| {
                unreadable(format!("snapshot {}: membership: {error}", self.path.display()))
            })?;
        Ok(SnapshotMeta {
            last_log_id: self.head.last.map(consensus::log_id_from_dto),
            last_membership: StoredMembership::new(
                self.head.membership_log_id.map(consensus::log_id_from_dto),
                membership,
            ),
        })
    }

    /// Reads the part of the application. Blocks.
    pub(crate) fn body(&self) -> impl Read + use<> {
        BufReader::with_capacity(
            256 * 1024,
            FileRange {
                file: self.file.clone(),
                at: self.body_start,
                end: self.body_start + self.body_len,
            },
        )
    }
}

/// Reads part of a shared file without moving its cursor.
struct FileRange {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for FileRange {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let room = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(out.len());
        let count = self.file.read_at(&mut out[..room], self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

struct ChecksumReader<R> {
    inner: R,
    sum: u32,
}

impl<R: Read> Read for ChecksumReader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(out)?;
        self.sum = crc32c::crc32c_append(self.sum, &out[..count]);
        Ok(count)
    }
}

struct ChecksumWriter<W> {
    inner: W,
    sum: u32,
    len: u64,
}

impl<W: Write> Write for ChecksumWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.sum = crc32c::crc32c_append(self.sum, &bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes a complete snapshot file, durably, with the caller's file name. Blocks.
pub(crate) fn write_file(
    path: &Path,
    head: &SnapshotHeadDto,
    used_ids: &BTreeSet<NodeId>,
    body: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = File::create(path)?;
    let mut out =
        ChecksumWriter { inner: BufWriter::with_capacity(256 * 1024, file), sum: 0, len: 0 };
    let head = codec::encode(&SnapshotHead::V2(head.clone(), used_ids.iter().copied().collect()));
    let head_len =
        u32::try_from(head.len()).ok().filter(|len| *len <= HEAD_LEN_MAX).ok_or_else(|| {
            io::Error::other("the membership and the list of used node ids are too large")
        })?;
    out.write_all(&head_len.to_le_bytes())?;
    out.write_all(&head)?;
    let body_start = out.len;
    body(&mut out)?;
    let body_len = out.len - body_start;
    let sum = out.sum;
    let mut inner = out.inner;
    inner.write_all(&body_len.to_le_bytes())?;
    inner.write_all(&sum.to_le_bytes())?;
    inner.write_all(&TRAILER_MAGIC)?;
    inner.into_inner().map_err(|error| error.into_error())?.sync_all()
}

/// The directory of snapshots for the node with this data directory.
pub(crate) fn dir_of(data_dir: &Path) -> PathBuf {
    data_dir.join("snapshots")
}

/// The directory of snapshot files.
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    kept: usize,
    current: Mutex<Option<SnapshotFile>>,
    pub(crate) attempts: Attempts,
}

impl SnapshotStore {
    /// Verifies the newest complete file. Changes nothing in a directory that has one. Blocks.
    pub(crate) fn open(dir: &Path, kept: usize) -> io::Result<Self> {
        let dir = dir_of(dir);
        fs::create_dir_all(&dir)?;
        if let Some(parent) = dir.parent() {
            sync_dir(parent)?;
        }
        let verified = |path: PathBuf| {
            let newest = SnapshotFile::open(&path)?;
            newest.meta()?;
            Ok(newest)
        };
        let current = list(&dir)?.pop().map(verified).transpose();
        let current = current.map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => damaged(error),
            _ => error,
        })?;
        Ok(Self { dir, kept, current: Mutex::new(current), attempts: Attempts::default() })
    }

    /// Removes incomplete files. This happens only once everything in the node's directory is verified,
    /// because a refused directory must not be changed. Blocks.
    pub(crate) fn remove_unfinished(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "tmp") {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    pub(crate) fn current(&self) -> Option<SnapshotFile> {
        self.current.lock().clone()
    }

    /// The index of the current snapshot; `None` without one.
    pub(crate) fn current_index(&self) -> Option<u64> {
        self.current.lock().as_ref().map(SnapshotFile::index)
    }

    /// A name for a file that is still being received.
    pub(crate) fn incoming_path(&self, from: u64) -> PathBuf {
        self.dir.join(format!("from-{from}-{:016x}.tmp", rand::random::<u64>()))
    }

    /// Makes the file of a snapshot of `len` bytes that is received, if there is room for it. The log must not run out of
    /// space because of it. Blocks.
    pub(crate) fn begin_incoming(&self, from: u64, len: u64) -> io::Result<(PathBuf, File)> {
        room::check_room("the snapshot from another node", len, &self.dir)?;
        let path = self.incoming_path(from);
        let file = File::create(&path)?;
        Ok((path, file))
    }

    /// Whether the state fits on the disk, of which `free` bytes are free.
    fn check_room(
        &self,
        head: &SnapshotHeadDto,
        encoder: &dyn SnapshotEncoder,
        free: u64,
    ) -> io::Result<()> {
        let (last_len, last_index) =
            self.current.lock().as_ref().map_or((0, 0), |last| (last.len, last.index()));
        if free > AMPLE_BYTES + 4 * last_len {
            return Ok(());
        }
        let Some(len) = encoder.encoded_len()? else { return Ok(()) };
        let entries = head.last.map_or(0, |last| last.index).saturating_sub(last_index);
        let spare = if entries > SHORTENS_AFTER { SPARE_BYTES_MIN } else { room::SPARE_BYTES };
        room::check_room_beside(spare, "the snapshot", len, &self.dir)
    }

    /// Writes a snapshot of the state and makes it the current one. If that fails, no part of it remains. Blocks.
    pub(crate) fn create(
        &self,
        head: &SnapshotHeadDto,
        used_ids: &BTreeSet<NodeId>,
        encoder: Box<dyn SnapshotEncoder>,
    ) -> io::Result<SnapshotFile> {
        self.check_room(head, &*encoder, room::free_bytes(&self.dir).unwrap_or(0))?;
        let unfinished = self.dir.join(format!("new-{:016x}.tmp", rand::random::<u64>()));
        let written = write_file(&unfinished, head, used_ids, |out| encoder.encode(out))
            .and_then(|()| self.adopt(SnapshotFile::open(&unfinished)?));
        written.map_err(|error| {
            // The file no longer has this name if it was complete.
            let _ = fs::remove_file(&unfinished);
            io::Error::new(error.kind(), format!("{}: {error}", self.dir.display()))
        })
    }

    /// Gives a complete file its final name and makes it the current one. Blocks.
    pub(crate) fn adopt(&self, snapshot: SnapshotFile) -> io::Result<SnapshotFile> {
        let path = self.dir.join(format!("snap-{:020}.mxs", snapshot.index()));
        if snapshot.path != path {
            fs::rename(&snapshot.path, &path)?;
            sync_dir(&self.dir)?;
        }
        let adopted = SnapshotFile { path, ..snapshot };
        let mut current = self.current.lock();
        if current.as_ref().is_none_or(|old| old.index() <= adopted.index()) {
            *current = Some(adopted.clone());
        }
        drop(current);
        let files = list(&self.dir)?;
        for old in &files[..files.len().saturating_sub(self.kept)] {
            fs::remove_file(old)?;
        }
        Ok(adopted)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        let files = list(&self.dir).unwrap_or_default();
        files.iter().filter_map(|path| fs::metadata(path).ok()).map(|meta| meta.len()).sum()
    }
}

/// The complete snapshots, oldest first.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name =
            path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("snap-") && name.ends_with(".mxs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{LogIdDto, MembershipDto};

    struct Blob(Vec<u8>);
    impl SnapshotEncoder for Blob {
        fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(&self.0)
        }
    }

    /// A state that is larger than any disk.
    struct Huge;
    impl SnapshotEncoder for Huge {
        fn encode(self: Box<Self>, _: &mut dyn Write) -> io::Result<()> {
            panic!("it is refused before")
        }

        fn encoded_len(&self) -> io::Result<Option<u64>> {
            Ok(Some(1 << 60))
        }
    }

    /// Writes a part of the state, and then fails as a disk does.
    struct FailsWith(io::ErrorKind);
    impl SnapshotEncoder for FailsWith {
        fn encode(self: Box<Self>, out: &mut dyn Write) -> io::Result<()> {
            out.write_all(&vec![1; 1_000_000])?;
            Err(self.0.into())
        }
    }

    fn head(index: u64) -> SnapshotHeadDto {
        SnapshotHeadDto {
            cluster_id: "demo".into(),
            lineage: 0,
            last: Some(LogIdDto { term: 1, node: 1, index }),
            membership_log_id: None,
            membership: MembershipDto::default(),
        }
    }

    #[test]
    fn the_newest_survives_reopening_and_old_ones_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path(), 2).unwrap();
        for index in [5, 50, 500] {
            store
                .create(
                    &head(index),
                    &BTreeSet::from([index]),
                    Box::new(Blob(vec![index as u8; 100_000])),
                )
                .unwrap();
        }
        assert_eq!(list(&dir.path().join("snapshots")).unwrap().len(), 2);
        let reopened = SnapshotStore::open(dir.path(), 2).unwrap().current().unwrap();
        assert_eq!(reopened.index(), 500);
        assert_eq!(reopened.used_ids, BTreeSet::from([500]));
        let mut body = Vec::new();
        reopened.body().read_to_end(&mut body).unwrap();
        assert_eq!(body, vec![244; 100_000]);
    }

    #[test]
    fn a_snapshot_that_cannot_be_written_leaves_nothing_and_keeps_the_last_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path(), 2).unwrap();
        store.create(&head(5), &BTreeSet::new(), Box::new(Blob(vec![1; 10]))).unwrap();
        let files = || fs::read_dir(dir.path().join("snapshots")).unwrap().count();
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::Other] {
            let failed = store.create(&head(9), &BTreeSet::new(), Box::new(FailsWith(kind)));
            let failed = failed.unwrap_err();
            assert_eq!(failed.kind(), kind);
            let place = dir.path().join("snapshots").display().to_string();
            assert!(failed.to_string().starts_with(&place), "{failed}");
            assert_eq!((store.current_index(), files()), (Some(5), 1));
        }
    }

    /// Less must stay free if the snapshot lets the log be shortened.
    #[test]
    fn a_state_that_does_not_fit_is_refused_before_a_byte_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path(), 2).unwrap();
        for (index, spare) in [(6_000, "8192 KiB more"), (6_001, "1024 KiB more")] {
            let refused = store.check_room(&head(index), &Huge, AMPLE_BYTES).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
            assert!(refused.to_string().contains(spare), "{refused}");
        }
        store.check_room(&head(1), &Huge, AMPLE_BYTES + 1).unwrap();
    }

    #[test]
    fn a_received_snapshot_that_does_not_fit_is_refused_before_a_file_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path(), 2).unwrap();
        let files = || fs::read_dir(dir.path().join("snapshots")).unwrap().count();
        let refused = store.begin_incoming(2, 1 << 60).unwrap_err();
        assert_eq!((refused.kind(), files()), (io::ErrorKind::StorageFull, 0));
        store.begin_incoming(2, 10).unwrap();
        assert_eq!(files(), 1);
    }

    #[test]
    fn any_flipped_byte_and_any_cut_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.mxs");
        write_file(&path, &head(7), &BTreeSet::new(), |out| out.write_all(b"the state")).unwrap();
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] ^= 0x10;
            fs::write(&path, &broken).unwrap();
            assert!(SnapshotFile::open(&path).is_err(), "byte {at} flipped");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(SnapshotFile::open(&path).is_err(), "cut to {at}");
        }
        fs::write(&path, &whole).unwrap();
        SnapshotFile::open(&path).unwrap();
    }

    #[test]
    fn a_damaged_newest_snapshot_stops_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = SnapshotStore::open(dir.path(), 2).unwrap();
        let made = store.create(&head(5), &BTreeSet::new(), Box::new(Blob(vec![1; 10]))).unwrap();
        let mut bytes = fs::read(&made.path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&made.path, bytes).unwrap();
        let refused = SnapshotStore::open(dir.path(), 2).err().unwrap().to_string();
        assert!(refused.contains("remove this node from the cluster"), "{refused}");
        // A backup is the same kind of file, and there is no node to remove.
        let refused = SnapshotFile::open(&made.path).unwrap_err().to_string();
        assert_eq!(refused, format!("snapshot {} fails its checksum", made.path.display()));
    }
}
