//! Opens and seals many QUIC 1-RTT packets (RFC 9001 section 5) in one call.
//!
//! Nothing here remembers anything: keys come in, packet numbers come in, bytes go out. Who has
//! used which number, what was received and what is acknowledged is aioquic's alone. Each function
//! has its twin in Python (`fastpath_receive.py`, `fastpath_send.py`), and one set of tests runs on
//! both.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};
use ring::aead::quic::{HeaderProtectionKey, AES_128, AES_256};
use ring::aead::{Aad, LessSafeKey, Nonce, UnboundKey, AES_128_GCM, AES_256_GCM};

const SAMPLE_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const MAX_NUMBER_BYTES: usize = 4;
const SHORT_HEADER_MASK: u8 = 0xC0;
const SHORT_HEADER: u8 = 0x40;
const PROTECTED_BITS: u8 = 0x1F;
const RESERVED_AND_PHASE: u8 = 0x1C;
const DATAGRAM_WITH_LENGTH: u8 = 0x31;
const SENT_NUMBER_BYTES: usize = 2;

/// The header protection key of one direction; a key update never changes it.
#[pyclass(frozen)]
struct HeaderKey(HeaderProtectionKey);

#[pymethods]
impl HeaderKey {
    /// Of AES-128 or AES-256, by the length of the key.
    #[new]
    fn new(key: &[u8]) -> PyResult<Self> {
        let algorithm = if key.len() == 16 { &AES_128 } else { &AES_256 };
        HeaderProtectionKey::new(algorithm, key)
            .map(Self)
            .map_err(|_| PyValueError::new_err("not a key of AES-128 or AES-256"))
    }
}

/// The packet protection key of one direction and key phase.
#[pyclass(frozen)]
struct PacketKey {
    aead: LessSafeKey,
    iv: [u8; 12],
}

#[pymethods]
impl PacketKey {
    /// Of AES-128-GCM or AES-256-GCM, by the length of the key.
    #[new]
    fn new(key: &[u8], iv: &[u8]) -> PyResult<Self> {
        let algorithm = if key.len() == 16 {
            &AES_128_GCM
        } else {
            &AES_256_GCM
        };
        let aead = UnboundKey::new(algorithm, key)
            .map_err(|_| PyValueError::new_err("not a key of AES-128-GCM or AES-256-GCM"))?;
        let iv = iv
            .try_into()
            .map_err(|_| PyValueError::new_err("an IV has 12 bytes"))?;
        Ok(Self {
            aead: LessSafeKey::new(aead),
            iv,
        })
    }
}

impl PacketKey {
    /// RFC 9001 section 5.3.
    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[4..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= of_number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// RFC 9000 appendix A.3.
fn full_number(truncated: u64, bits: u32, expected: u64) -> u64 {
    let window = 1u64 << bits;
    let half = window / 2;
    let candidate = (expected & !(window - 1)) | truncated;
    if candidate + half <= expected && candidate + window < 1 << 62 {
        candidate + window
    } else if candidate > expected + half && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

/// Return where the payload of a packet begins that is one DATAGRAM frame with a length, to its end.
fn lone_datagram(plain: &[u8]) -> Option<usize> {
    if plain.len() < 3 || plain[0] != DATAGRAM_WITH_LENGTH {
        return None;
    }
    let (length, start) = match plain[1] {
        short if short < 0x40 => (usize::from(short), 2),
        long if long < 0x80 => (usize::from(long & 0x3F) << 8 | usize::from(plain[2]), 3),
        _ => return None,
    };
    (start + length == plain.len()).then_some(start)
}

/// What came out of one packet.
enum Opened {
    /// The tag does not fit: forged or damaged.
    Forged,
    Plain(usize),
}

/// Open one packet into `room`; None: it is not for this function (see `open_many`).
fn open_one(
    header: &HeaderKey,
    key: &PacketKey,
    packet: &[u8],
    cid: &[u8],
    phase: u8,
    expected: u64,
    room: &mut Vec<u8>,
) -> Option<(u8, u64, Opened)> {
    let number_at = 1 + cid.len();
    let sample_at = number_at + MAX_NUMBER_BYTES;
    if packet.len() < sample_at + SAMPLE_BYTES
        || packet[0] & SHORT_HEADER_MASK != SHORT_HEADER
        || &packet[1..number_at] != cid
    {
        return None;
    }
    let mask = header
        .0
        .new_mask(&packet[sample_at..sample_at + SAMPLE_BYTES])
        .ok()?;
    let first = packet[0] ^ (mask[0] & PROTECTED_BITS);
    if first & RESERVED_AND_PHASE != phase {
        return None;
    }
    let size = usize::from(first & 3) + 1;
    let end = number_at + size;
    room.clear();
    room.extend_from_slice(packet);
    room[0] = first;
    let mut truncated = 0;
    for (byte, of_mask) in room[number_at..end].iter_mut().zip(&mask[1..]) {
        *byte ^= of_mask;
        truncated = truncated << 8 | u64::from(*byte);
    }
    let number = full_number(truncated, 8 * size as u32, expected);
    let (head, body) = room.split_at_mut(end);
    let opened = match key
        .aead
        .open_in_place(key.nonce(number), Aad::from(&*head), body)
    {
        Ok(plain) => Opened::Plain(plain.len()),
        Err(_) => Opened::Forged,
    };
    Some((first, number, opened))
}

/// Packets of one DATAGRAM frame each: first number, count, first byte, payloads, next expected.
type Run<'py> = (u64, u64, u8, Bound<'py, PyList>, u64);

/// Open packets from `start` on, as far as they are ordinary; return what they hold, in order.
///
/// Items are `(number, count, first_byte, payloads, expected)` for `count` consecutive numbers whose
/// packets each hold one DATAGRAM frame, and `(number, 0, first_byte, plain, expected)` for any other
/// packet, where `plain` is None if the tag did not fit; `expected` is the next number after it. It ends before the first packet that is too short, has a
/// long header, another connection ID, another key phase or reserved bits. Duplicates are not known
/// here. The number of the next packet is expected to be near `expected`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
fn open_many<'py>(
    py: Python<'py>,
    header: &HeaderKey,
    key: &PacketKey,
    packets: &Bound<'py, PyList>,
    start: usize,
    cid: &[u8],
    phase: u8,
    expected: u64,
) -> PyResult<Bound<'py, PyList>> {
    let items = PyList::empty(py);
    let mut expected = expected;
    let mut room = Vec::with_capacity(2048);
    let mut run: Option<Run<'py>> = None;
    for index in start..packets.len() {
        let packet = packets.get_item(index)?;
        let packet = packet.cast::<PyBytes>()?.as_bytes();
        let Some((first, number, opened)) =
            open_one(header, key, packet, cid, phase, expected, &mut room)
        else {
            break;
        };
        let body_at = 1 + cid.len() + usize::from(first & 3) + 1;
        let Opened::Plain(size) = opened else {
            flush(&items, &mut run)?;
            items.append((number, 0, first, py.None(), expected))?;
            continue;
        };
        if number > expected {
            expected = number + 1; // as aioquic counts it
        }
        let plain = &room[body_at..body_at + size];
        let Some(payload_at) = lone_datagram(plain) else {
            flush(&items, &mut run)?;
            items.append((number, 0, first, PyBytes::new(py, plain), expected))?;
            continue;
        };
        let payload = PyBytes::new(py, &plain[payload_at..]);
        match &mut run {
            Some((begin, count, byte, payloads, next)) if *begin + *count == number => {
                *count += 1;
                *byte = first;
                *next = expected;
                payloads.append(payload)?;
            }
            _ => {
                flush(&items, &mut run)?;
                run = Some((number, 1, first, PyList::new(py, [payload])?, expected));
            }
        }
    }
    flush(&items, &mut run)?;
    Ok(items)
}

fn flush<'py>(items: &Bound<'py, PyList>, run: &mut Option<Run<'py>>) -> PyResult<()> {
    match run.take() {
        Some(run) => items.append(run),
        None => Ok(()),
    }
}

/// Seal packets with consecutive numbers from `number` on, short headers included.
///
/// `first_byte` is the unprotected one and says that packet numbers have two bytes.
#[pyfunction]
fn seal_many<'py>(
    py: Python<'py>,
    header: &HeaderKey,
    key: &PacketKey,
    plains: &Bound<'py, PyList>,
    number: u64,
    first_byte: u8,
    cid: &[u8],
) -> PyResult<Bound<'py, PyList>> {
    let packets = PyList::empty(py);
    for (index, plain) in plains.iter().enumerate() {
        let plain = plain.cast::<PyBytes>()?.as_bytes();
        let packet = seal_one(
            py,
            header,
            key,
            plain,
            number + index as u64,
            first_byte,
            cid,
        )?;
        packets.append(packet)?;
    }
    Ok(packets)
}

fn seal_one<'py>(
    py: Python<'py>,
    header: &HeaderKey,
    key: &PacketKey,
    plain: &[u8],
    number: u64,
    first_byte: u8,
    cid: &[u8],
) -> PyResult<Bound<'py, PyBytes>> {
    let number_at = 1 + cid.len();
    let body_at = number_at + SENT_NUMBER_BYTES;
    let sample_at = number_at + MAX_NUMBER_BYTES;
    let size = body_at + plain.len() + TAG_BYTES;
    if size < sample_at + SAMPLE_BYTES {
        return Err(PyValueError::new_err("too short to sample"));
    }
    PyBytes::new_with(py, size, |packet| {
        packet[0] = first_byte;
        packet[1..number_at].copy_from_slice(cid);
        packet[number_at..body_at].copy_from_slice(&(number as u16).to_be_bytes());
        let (head, body) = packet.split_at_mut(body_at);
        let (text, tag_room) = body.split_at_mut(plain.len());
        text.copy_from_slice(plain);
        let tag = key
            .aead
            .seal_in_place_separate_tag(key.nonce(number), Aad::from(&*head), text)
            .map_err(|_| PyValueError::new_err("too long to seal"))?;
        tag_room.copy_from_slice(tag.as_ref());
        let mask = header
            .0
            .new_mask(&packet[sample_at..sample_at + SAMPLE_BYTES])
            .map_err(|_| PyValueError::new_err("no mask"))?;
        packet[0] ^= mask[0] & PROTECTED_BITS;
        for (byte, of_mask) in packet[number_at..body_at].iter_mut().zip(&mask[1..]) {
            *byte ^= of_mask;
        }
        Ok(())
    })
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<HeaderKey>()?;
    module.add_class::<PacketKey>()?;
    module.add_function(wrap_pyfunction!(open_many, module)?)?;
    module.add_function(wrap_pyfunction!(seal_many, module)?)?;
    Ok(())
}
