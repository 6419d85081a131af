"""The frozen teacher, and a cache of its maps on disk."""

from freqkd.teacher.build import build_teacher as build_teacher
from freqkd.teacher.cache import CachedTeacher as CachedTeacher
from freqkd.teacher.module_teacher import ModuleTeacher as ModuleTeacher
from freqkd.teacher.teacher import Teacher as Teacher
