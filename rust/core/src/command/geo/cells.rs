//! Places on the earth as numbers: 52-bit cells, distances, and the cells that cover a circle or a box.
//!
//! The arithmetic is that of Redis, operation by operation, so that scores, distances and the cells searched
//! are the same to the last bit. Longitude takes the odd bits of a cell, latitude the even ones.

use std::ops::Range;

/// The finest cells: 26 bits for each coordinate.
pub const FINEST: u32 = 26;

const LONGITUDES: (f64, f64) = (-180.0, 180.0);
const LATITUDES: (f64, f64) = (-85.051_128_78, 85.051_128_78); // Those of the web's maps.
const EARTH_RADIUS: f64 = 6_372_797.560_856; // Metres.
const MERCATOR: f64 = 20_037_726.37; // Metres from the zero meridian to the date line, on such a map.
const RADIANS: f64 = std::f64::consts::PI / 180.0;

/// Longitude and latitude in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    /// East of Greenwich.
    pub longitude: f64,
    /// North of the equator.
    pub latitude: f64,
}

impl Place {
    /// Whether it is on the map.
    pub fn is_valid(self) -> bool {
        (LONGITUDES.0..=LONGITUDES.1).contains(&self.longitude) && (LATITUDES.0..=LATITUDES.1).contains(&self.latitude)
    }

    /// The score of a member that is here.
    pub fn score(self) -> f64 {
        Cell::at(self, FINEST).aligned() as f64
    }

    /// Where a member with this score is.
    pub fn of_score(score: f64) -> Place {
        // As the processor converts: a negative number wraps, one that is out of all bounds is 2^63.
        let bits = if score < 0.0 { score as i64 as u64 } else { score as u64 };
        let area = Cell { bits, step: FINEST }.area();
        let middle = |(low, high): (f64, f64), (least, most): (f64, f64)| ((low + high) / 2.0).min(most).max(least);
        Place { longitude: middle(area.longitude, LONGITUDES), latitude: middle(area.latitude, LATITUDES) }
    }

    /// Metres to another place, over a round earth.
    pub fn distance(self, other: Place) -> f64 {
        let (one, two) = (self.longitude * RADIANS, other.longitude * RADIANS);
        let v = ((two - one) / 2.0).sin();
        if v == 0.0 {
            return latitude_distance(self.latitude, other.latitude);
        }
        let (one, two) = (self.latitude * RADIANS, other.latitude * RADIANS);
        let u = ((two - one) / 2.0).sin();
        let a = u * u + one.cos() * two.cos() * v * v;
        2.0 * EARTH_RADIUS * a.sqrt().asin()
    }

    /// The eleven letters of a geohash, as everybody but Redis writes it: with latitudes up to 90 degrees.
    pub fn geohash(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = encode(self, FINEST, (-90.0, 90.0));
        // 52 bits are ten letters and two bits; the last letter is always the same.
        std::array::from_fn(|at| if at == 10 { b'0' } else { ALPHABET[(bits >> (52 - (at + 1) * 5) & 31) as usize] })
    }
}

fn latitude_distance(one: f64, two: f64) -> f64 {
    EARTH_RADIUS * (two * RADIANS - one * RADIANS).abs()
}

fn encode(place: Place, step: u32, latitudes: (f64, f64)) -> u64 {
    let part = |value: f64, (low, high): (f64, f64)| ((value - low) / (high - low) * (1u64 << step) as f64) as u32;
    spread(part(place.latitude, latitudes)) | spread(part(place.longitude, LONGITUDES)) << 1
}

/// The bits of a number, each followed by a zero.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    for (shift, mask) in [
        (16, 0x0000_FFFF_0000_FFFF),
        (8, 0x00FF_00FF_00FF_00FF),
        (4, 0x0F0F_0F0F_0F0F_0F0F),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        bits = (bits | bits << shift) & mask;
    }
    bits
}

/// Every second bit of a number.
fn gather(bits: u64) -> u32 {
    let mut bits = bits & EVEN;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0F0F_0F0F_0F0F_0F0F),
        (4, 0x00FF_00FF_00FF_00FF),
        (8, 0x0000_FFFF_0000_FFFF),
        (16, 0x0000_0000_FFFF_FFFF),
    ] {
        bits = (bits | bits >> shift) & mask;
    }
    bits as u32
}

const EVEN: u64 = 0x5555_5555_5555_5555;
const ODD: u64 = !EVEN;

/// A rectangle of the map: `step` bits of each coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    bits: u64,
    step: u32,
}

struct Area {
    longitude: (f64, f64),
    latitude: (f64, f64),
}

impl Cell {
    fn at(place: Place, step: u32) -> Cell {
        Cell { bits: encode(place, step, LATITUDES), step }
    }

    fn aligned(self) -> u64 {
        self.bits << (52 - self.step * 2)
    }

    fn area(self) -> Area {
        let part = |bits: u32, (low, high): (f64, f64)| {
            let scale = high - low;
            let edge = |number: f64| low + number / (1u64 << self.step) as f64 * scale;
            (edge(f64::from(bits)), edge(f64::from(bits.wrapping_add(1))))
        };
        Area { latitude: part(gather(self.bits), LATITUDES), longitude: part(gather(self.bits >> 1), LONGITUDES) }
    }

    /// The cell so many to the east and to the north, each -1, 0 or 1; the map's edges meet.
    fn moved(self, east: i32, north: i32) -> Cell {
        let unused = 64 - self.step * 2;
        let part = |own: u64, other: u64, steps: i32| {
            let gaps = other >> unused;
            let moved = match steps {
                0 => own,
                1.. => own.wrapping_add(gaps + 1),
                _ => (own | gaps).wrapping_sub(gaps + 1),
            };
            if steps == 0 { own } else { moved & (!other >> unused) }
        };
        let bits = part(self.bits & ODD, EVEN, east) | part(self.bits & EVEN, ODD, north);
        Cell { bits, step: self.step }
    }
}

/// What is searched, around a place.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// All within a distance.
    Circle(f64),
    /// All within half a width to the east and west, half a height to the north and south.
    Box(f64, f64),
}

/// A search: the shape in units of so many metres.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The middle.
    pub middle: Place,
    /// The shape.
    pub shape: Shape,
    /// Metres of a unit.
    pub unit: f64,
}

impl Search {
    /// The distance in metres to a place, if that is within the shape.
    pub fn reaches(&self, place: Place) -> Option<f64> {
        match self.shape {
            Shape::Circle(radius) => Some(self.middle.distance(place)).filter(|&far| far <= radius * self.unit),
            Shape::Box(width, height) => {
                if latitude_distance(place.latitude, self.middle.latitude) > height * self.unit / 2.0 {
                    return None;
                }
                let beside = Place { longitude: self.middle.longitude, latitude: place.latitude };
                if place.distance(beside) > width * self.unit / 2.0 {
                    return None;
                }
                Some(self.middle.distance(place))
            }
        }
    }

    /// What the shape may reach: the lowest longitude and latitude, then the highest.
    fn bounds(&self) -> (Place, Place) {
        let (width, height) = match self.shape {
            Shape::Circle(radius) => (radius, radius),
            Shape::Box(width, height) => (width / 2.0, height / 2.0),
        };
        let Place { longitude, latitude } = self.middle;
        let (width, height) = (self.unit * width, self.unit * height);
        let north = height / EARTH_RADIUS / RADIANS;
        let east = |latitude: f64| width / EARTH_RADIUS / (latitude * RADIANS).cos() / RADIANS;
        // Degrees of longitude are shortest on the side of the nearer pole.
        let east = if latitude < 0.0 { east(latitude - north) } else { east(latitude + north) };
        (
            Place { longitude: longitude - east, latitude: latitude - north },
            Place { longitude: longitude + east, latitude: latitude + north },
        )
    }

    /// The ranges of scores to look through, in the order Redis takes them.
    pub fn scores(&self) -> Vec<Range<f64>> {
        let (low, high) = self.bounds();
        let radius = match self.shape {
            Shape::Circle(radius) => radius,
            Shape::Box(width, height) => ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt(),
        };
        let mut step = step_for(radius * self.unit, self.middle.latitude);
        let mut cell = Cell::at(self.middle, step);
        let area = |east, north| cell.moved(east, north).area();
        let too_near = area(0, 1).latitude.1 < high.latitude
            || area(0, -1).latitude.0 > low.latitude
            || area(1, 0).longitude.1 < high.longitude
            || area(-1, 0).longitude.0 > low.longitude;
        if step > 1 && too_near {
            step -= 1;
            cell = Cell::at(self.middle, step);
        }
        let middle = cell.area();
        // Neighbours on a side that the shape does not reach are left out.
        let all = step < 2;
        let skipped = |towards_east: i32, towards_north: i32| {
            !all && (towards_north < 0 && middle.latitude.0 < low.latitude
                || towards_north > 0 && middle.latitude.1 > high.latitude
                || towards_east < 0 && middle.longitude.0 < low.longitude
                || towards_east > 0 && middle.longitude.1 > high.longitude)
        };
        let mut ranges = Vec::with_capacity(9);
        let mut last: Option<Cell> = None;
        let order = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        for (at, (east, north)) in order.into_iter().enumerate() {
            let each = cell.moved(east, north);
            // With a huge radius neighbours are the same; as in Redis only with the one before, and not the middle.
            if skipped(east, north) || last == Some(each) {
                continue;
            }
            if at > 0 {
                last = Some(each);
            }
            let next = Cell { bits: each.bits + 1, step };
            ranges.push(each.aligned() as f64..next.aligned() as f64);
        }
        ranges
    }
}

/// How many bits of each coordinate make cells about as large as a radius.
fn step_for(mut radius: f64, latitude: f64) -> u32 {
    if radius == 0.0 {
        return FINEST;
    }
    let mut step = 1i32;
    while radius < MERCATOR {
        radius *= 2.0;
        step += 1;
    }
    step -= 2; // So that nine cells cover the circle in most cases.
    // Towards the poles cells become narrow.
    let latitude = latitude.abs();
    step -= i32::from(latitude > 66.0) + i32::from(latitude > 80.0);
    step.clamp(1, FINEST as i32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const PALERMO: Place = Place { longitude: 13.361389, latitude: 38.115556 };
    const CATANIA: Place = Place { longitude: 15.087269, latitude: 37.502669 };

    #[test]
    fn places_become_scores_and_come_back() {
        assert_eq!(PALERMO.score(), 3_479_099_956_230_698.0);
        let back = Place::of_score(PALERMO.score());
        assert!((back.longitude - PALERMO.longitude).abs() < 1e-5 && (back.latitude - PALERMO.latitude).abs() < 1e-5);
        assert_eq!(&Place::of_score(PALERMO.score()).geohash(), b"sqc8b49rny0");
        let metres = Place::of_score(PALERMO.score()).distance(Place::of_score(CATANIA.score()));
        assert_eq!(format!("{metres:.4}"), "166274.1516");
    }

    #[test]
    fn a_search_finds_what_is_within_wherever_it_is() {
        let mut state = 7u64;
        let mut random = |bound: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 * bound
        };
        for _ in 0..20_000 {
            let mut place = || Place { longitude: random(358.0) - 179.0, latitude: random(160.0) - 80.0 };
            let (middle, other) = (place(), Place::of_score(place().score()));
            let radius = random(1e6);
            let search = Search { middle, shape: Shape::Circle(radius), unit: 1.0 };
            let ranges = search.scores();
            let (low, high) = search.bounds();
            // Across the date line Redis finds nothing either.
            if low.longitude > -180.0 && high.longitude < 180.0 && search.reaches(other).is_some() {
                assert!(ranges.iter().any(|range| range.contains(&other.score())), "{search:?} {other:?}");
            }
        }
    }
}
