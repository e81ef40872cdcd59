// Places as geohashes: https://en.wikipedia.org/wiki/Geohash. Nothing here needs WASI.

const DIGITS = "0123456789bcdefghjkmnpqrstuvwxyz";

/** So many characters name a place to a few metres. */
const LENGTH = 9;

/** The geohash of `LATITUDE,LONGITUDE` in degrees; `null` if the line is something else. */
export function geohashOf(line: string): string | null {
  const parts = line.split(",");
  if (parts.length != 2) return null;
  const latitude = degrees(parts[0], 90);
  const longitude = degrees(parts[1], 180);
  return isNaN(latitude) || isNaN(longitude) ? null : encode(latitude, longitude);
}

/** A number of degrees, or NaN. `parseFloat` alone takes `1x` as 1 and `""` as NaN. */
function degrees(text: string, most: f64): f64 {
  const trimmed = text.trim();
  for (let i = 0; i < trimmed.length; i++) {
    const c = trimmed.charCodeAt(i);
    const isDigit = c >= 0x30 && c <= 0x39;
    if (!isDigit && c != 0x2e && !(c == 0x2d && i == 0)) return NaN;
  }
  if (trimmed.indexOf(".") != trimmed.lastIndexOf(".")) return NaN;
  const value = parseFloat(trimmed);
  return abs(value) <= most ? value : NaN;
}

/** Halves both ranges in turn, the longitude's first: each half is a bit, and five bits are a character. */
function encode(latitude: f64, longitude: f64): string {
  let south: f64 = -90, north: f64 = 90, west: f64 = -180, east: f64 = 180;
  let hash = "";
  let digit = 0;
  for (let bit = 0; bit < LENGTH * 5; bit++) {
    digit <<= 1;
    if (bit % 2 == 0) {
      const middle = (west + east) / 2;
      if (longitude >= middle) {
        digit |= 1;
        west = middle;
      } else {
        east = middle;
      }
    } else {
      const middle = (south + north) / 2;
      if (latitude >= middle) {
        digit |= 1;
        south = middle;
      } else {
        north = middle;
      }
    }
    if (bit % 5 == 4) {
      hash += DIGITS.charAt(digit);
      digit = 0;
    }
  }
  return hash;
}
