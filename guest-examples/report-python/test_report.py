"""python -m unittest"""

import json
import unittest

from report import BadMessage, report


class Reports(unittest.TestCase):
    def test_each_sensor_is_summed_up(self) -> None:
        message = b"sensor,time,value\nroof,10:00,21.5\ncellar,10:00,12\nroof,11:00,22.5\n"
        self.assertEqual(
            json.loads(report(message)),
            {
                "cellar": {"count": 1, "min": 12.0, "max": 12.0, "mean": 12.0, "median": 12.0},
                "roof": {"count": 2, "min": 21.5, "max": 22.5, "mean": 22.0, "median": 22.0},
            },
        )

    def test_quotes_a_byte_order_mark_and_other_line_ends_are_fine(self) -> None:
        message = '\ufeffsensor,time,value\r\n"a, ""b""",10:00,1\r\n\r\n'.encode()
        self.assertEqual(json.loads(report(message))['a, "b"']["count"], 1)

    def test_what_is_no_table_of_readings_is_a_bad_message(self) -> None:
        head = b"sensor,time,value\n"
        for message in [
            b"",
            b"sensor,value\n",
            head,
            head + b"roof,10:00\n",
            head + b"roof,10:00,warm\n",
            head + b"roof,10:00,nan\n",
            head + b"roof,10:00,1,2\n",
            head + b'roof,"10:00,1\n',
            b"\xff\xfe",
        ]:
            with self.subTest(message), self.assertRaises(BadMessage):
                report(message)


if __name__ == "__main__":
    unittest.main()
